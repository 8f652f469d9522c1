import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// `npm run dev` serves the page by itself and sends its calls to a gateway that runs elsewhere.
const gateway = process.env["CAUDAL_GATEWAY"] ?? "http://127.0.0.1:7410";

export default defineConfig({
  plugins: [react()],
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
