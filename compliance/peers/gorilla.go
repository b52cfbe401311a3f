// gorilla/websocket: `gorilla serve PORT` echoes, `gorilla dial URL` says what said.py has.
package main

import (
	"bytes"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/gorilla/websocket"
)

func echo(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{EnableCompression: true}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

type said struct {
	kind    int
	message []byte
}

func everything() (inARow, oneByOne []said) {
	var table strings.Builder
	for number := 0; number < 60; number++ {
		fmt.Fprintf(&table, "{\"id\": %d, \"name\": \"number %d\", \"price\": %d}\n", number, number, number*37)
	}
	octets := make([]byte, 65536)
	for at := range octets {
		octets[at] = byte(at)
	}
	one := said{websocket.TextMessage, []byte(table.String())}
	return []said{one, one, one}, []said{
		{websocket.TextMessage, []byte("hi")},
		{websocket.TextMessage, []byte(strings.Repeat("é", 50_000))},
		{websocket.BinaryMessage, octets},
	}
}

func dial(url string) {
	dialer := websocket.Dialer{EnableCompression: true}
	conn, _, err := dialer.Dial(url, nil)
	check(err)
	send := func(one said) { check(conn.WriteMessage(one.kind, one.message)) }
	recv := func(one said) {
		kind, message, err := conn.ReadMessage()
		check(err)
		if kind != one.kind || !bytes.Equal(message, one.message) {
			log.Fatal("a message came back changed")
		}
	}
	inARow, oneByOne := everything()
	for _, one := range inARow {
		send(one)
	}
	for _, one := range inARow {
		recv(one)
	}
	for _, one := range oneByOne {
		send(one)
		recv(one)
	}
	goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	check(conn.WriteMessage(websocket.CloseMessage, goodbye))
}

func main() {
	if os.Args[1] == "dial" {
		dial(os.Args[2])
		return
	}
	http.HandleFunc("/", echo)
	check(http.ListenAndServe("127.0.0.1:"+os.Args[2], nil))
}
