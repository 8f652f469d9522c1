import type { Client, Interceptor, Transport } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { BatchService } from "./gen/caudal/v1/batch_pb.js";
import { EventService } from "./gen/caudal/v1/event_pb.js";
import { FileService } from "./gen/caudal/v1/file_pb.js";
import { OperatorService } from "./gen/caudal/v1/operator_pb.js";
import { TenantService } from "./gen/caudal/v1/tenant_pb.js";
import { UploadService } from "./gen/caudal/v1/upload_pb.js";
import { Operations } from "./gen/google/longrunning/operations_pb.js";

/** Where the gateway is and who calls. */
export interface CaudalOptions {
  /** Origin of the gateway, such as `https://caudal.example`. */
  gateway: string;
  /** The API key, `caudal_…`; a function is asked anew before each call. */
  apiKey: string | (() => string);
  /** Language of reasons and remedies: `en` or `es`; a function is asked anew before each call. */
  language?: string | (() => string);
  /** Another way to send, for tests. */
  transport?: Transport;
}

/** One typed caller a service. */
export interface Caudal {
  batches: Client<typeof BatchService>;
  events: Client<typeof EventService>;
  files: Client<typeof FileService>;
  /** Bulk acts under way. */
  operations: Client<typeof Operations>;
  /** For an operator's key. */
  operator: Client<typeof OperatorService>;
  /** What a tenant uses, and for an admin's key its keys and its audit. */
  tenants: Client<typeof TenantService>;
  uploads: Client<typeof UploadService>;
}

/** Makes the callers. Nothing is sent before the first call. */
export function caudal(options: CaudalOptions): Caudal {
  const transport =
    options.transport ??
    createGrpcWebTransport({
      baseUrl: options.gateway,
      interceptors: [credentials(options)],
    });
  return {
    batches: createClient(BatchService, transport),
    events: createClient(EventService, transport),
    files: createClient(FileService, transport),
    operations: createClient(Operations, transport),
    operator: createClient(OperatorService, transport),
    tenants: createClient(TenantService, transport),
    uploads: createClient(UploadService, transport),
  };
}

function credentials({ apiKey, language }: CaudalOptions): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${valueOf(apiKey)}`);
    if (language !== undefined) request.header.set("accept-language", valueOf(language));
    return next(request);
  };
}

function valueOf(setting: string | (() => string)): string {
  return typeof setting === "function" ? setting() : setting;
}
