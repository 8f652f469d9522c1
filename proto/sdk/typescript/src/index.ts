/** Client of Caudal: the generated messages, typed callers over gRPC-web, and a watch that survives restarts. */
export { create } from "@bufbuild/protobuf";
export { type Duration, durationFromMs, durationMs, timestampDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
export { Code, ConnectError } from "@connectrpc/connect";
export { type Caudal, type CaudalOptions, caudal } from "./client.js";
export * from "./gen/caudal/v1/batch_pb.js";
export * from "./gen/caudal/v1/file_pb.js";
export * from "./gen/caudal/v1/upload_pb.js";
export * from "./gen/caudal/v1/event_pb.js";
export * from "./gen/caudal/v1/operation_pb.js";
export * from "./gen/caudal/v1/operator_pb.js";
export * from "./gen/caudal/v1/tenant_pb.js";
export { type Operation } from "./gen/google/longrunning/operations_pb.js";
export { isPassing, pauseAsked, retrying, type RetryOptions, violationsOf, waitBefore } from "./retry.js";
export { followBatch, type FollowEvent, type FollowOptions, hasEnded, type FileMoved, WatchedBatch } from "./watch.js";
