// Node's own WebSocket (undici) and the package ws: `node.mjs undici|ws URL`, `node.mjs serve PORT`.

import { createRequire } from "node:module";
import { talk } from "./talk.mjs";

const [verb, where] = process.argv.slice(2);
const fromHere = createRequire(`${process.env.KOKO_NODE_MODULES ?? process.cwd()}/`);

if (verb === "serve") {
  const { WebSocketServer } = fromHere("ws");
  const server = new WebSocketServer({
    port: Number(where),
    host: "127.0.0.1",
    perMessageDeflate: true,
  });
  server.on("connection", (socket) =>
    socket.on("message", (message, isBinary) => socket.send(message, { binary: isBinary })),
  );
} else {
  await talk(verb === "ws" ? fromHere("ws").WebSocket : globalThis.WebSocket, where);
}
