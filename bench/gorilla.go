// The peer in Go: gorilla/websocket, as its own examples use it.
//
//	gorilla [-deflate] [-cert FILE -key FILE] echo|broadcast PORT
package main

import (
	"flag"
	"log"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

var (
	deflate  = flag.Bool("deflate", false, "answer offers of permessage-deflate")
	cert     = flag.String("cert", "", "certificate for wss")
	key      = flag.String("key", "", "its key")
	upgrader websocket.Upgrader
)

func main() {
	flag.Parse()
	upgrader.EnableCompression = *deflate
	work := map[string]func(*websocket.Conn){"echo": echo, "broadcast": broadcast}[flag.Arg(0)]
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		work(conn)
	})
	address := "127.0.0.1:" + flag.Arg(1)
	if *cert != "" {
		log.Fatal(http.ListenAndServeTLS(address, *cert, *key, nil))
	}
	log.Fatal(http.ListenAndServe(address, nil))
}

func echo(conn *websocket.Conn) {
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

var (
	lock    sync.Mutex
	members = map[*websocket.Conn]bool{}
)

func broadcast(conn *websocket.Conn) {
	change(conn, true)
	defer change(conn, false)
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		tell(kind, message)
	}
}

func change(conn *websocket.Conn, present bool) {
	lock.Lock()
	defer lock.Unlock()
	if present {
		members[conn] = true
	} else {
		delete(members, conn)
	}
}

func tell(kind int, message []byte) {
	prepared, err := websocket.NewPreparedMessage(kind, message)
	if err != nil {
		return
	}
	lock.Lock()
	defer lock.Unlock()
	for conn := range members {
		conn.WritePreparedMessage(prepared) // who is gone is taken out by its own goroutine
	}
}
