import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, gzip } from "node:zlib";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

// `npm run dev` serves the page by itself and sends its calls to a gateway that runs elsewhere.
const gateway = process.env["CAUDAL_GATEWAY"] ?? "http://127.0.0.1:7410";

const COMPRESSED = /\.(?:js|css|html|svg)$/;
/** Below this a packet is not filled anyway. */
const WORTH_COMPRESSING = 1_024;

/** Puts compressed twins beside the built files, which the gateway serves to whoever takes them. */
function compressed(): Plugin {
  let folder = "dist";
  return {
    name: "compressed",
    apply: "build",
    configResolved(config) {
      folder = config.build.outDir;
    },
    async closeBundle() {
      for (const name of await readdir(folder, { recursive: true })) {
        if (!COMPRESSED.test(name)) continue;
        const file = join(folder, name);
        const bytes = await readFile(file);
        if (bytes.length < WORTH_COMPRESSING) continue;
        await writeFile(`${file}.gz`, await promisify(gzip)(bytes, { level: 9 }));
        await writeFile(`${file}.br`, await promisify(brotliCompress)(bytes));
      }
    },
  };
}

export default defineConfig({
  plugins: [react(), compressed()],
  resolve: {
    conditions: ["caudal-source", "module", "browser", "development|production"],
    // The client is linked from another folder and must use the same copies as the page.
    dedupe: ["@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-web"],
  },
  worker: { format: "es" },
  build: { target: "es2022", modulePreload: { polyfill: false }, chunkSizeWarningLimit: 600 },
  // The list of names that clients leave out stands beside the clients.
  server: { fs: { allow: ["../.."] }, proxy: { "^/caudal\\.v1\\.": { target: gateway } } },
});
