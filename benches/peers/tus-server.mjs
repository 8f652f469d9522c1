// The reference server of tus, as its documentation sets it up: node tus-server.mjs FOLDER. Says its port.
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";

const [, , directory] = process.argv;
const server = new Server({ path: "/files", datastore: new FileStore({ directory }) });
const listening = server.listen({ host: "127.0.0.1", port: 0 }, () => {
  console.log(listening.address().port);
});
