// What a client in JavaScript says, in Node and in a browser: said.py is its twin.

const row = (number) =>
  `{"id": ${number}, "name": "number ${number}", "price": ${number * 37}}\n`;
const table = Array.from({ length: 60 }, (_, number) => row(number)).join("");
const inARow = [table, table, table];
const oneByOne = [
  "hi",
  "é".repeat(50_000),
  Uint8Array.from({ length: 65536 }, (_, at) => at % 256),
];

const isSame = (sent, echo) =>
  typeof sent === "string"
    ? sent === echo
    : sent.length === echo.byteLength &&
      new Uint8Array(echo).every((octet, at) => octet === sent[at]);

/** Say everything to `url`; the promise is rejected unless all of it is echoed. */
export const talk = (WebSocket, url) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    const echoes = [];
    const asked = [...inARow, ...oneByOne];
    socket.onopen = () => inARow.forEach((message) => socket.send(message));
    socket.onmessage = ({ data }) => {
      const at = echoes.push(data);
      if (!isSame(asked[at - 1], data)) reject(new Error(`message ${at} came back changed`));
      else if (at === asked.length) socket.close(1000);
      else if (at >= inARow.length) socket.send(asked[at]);
    };
    socket.onclose = ({ code }) =>
      echoes.length === asked.length ? resolve() : reject(new Error(`closed with ${code}`));
  });
