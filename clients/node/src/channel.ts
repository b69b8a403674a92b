// The connections to the service. They are made anew when the certificate's files are exchanged, which grpc-js leaves to
// its users.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import type { ProtoGrpcType } from "./generated/credential_service.js";
import type { CredentialServiceClient } from "./generated/triseal/v1/CredentialService.js";

const { triseal } = grpc.loadPackageDefinition(
  loadSync("triseal/v1/credential_service.proto", {
    includeDirs: [fileURLToPath(new URL("../proto", import.meta.url))],
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  }),
) as unknown as ProtoGrpcType;
const serviceConfig = readFileSync(new URL("../service-config.json", import.meta.url), "utf8");

/** How often the files are looked at, where calls are made at all. The service looks at its own as often. */
const LOOK_EVERY_MS = 2_000;

export interface Endpoint {
  /** `HOST:PORT`, or any target of gRPC's; every address that it has is used in turn. */
  endpoint: string;
  /** PEM files, which may be exchanged. */
  ca: string;
  certificate: string;
  key: string;
}

export class Channel {
  readonly #endpoint: Endpoint;
  #read: Buffer[];
  #stub: CredentialServiceClient;
  #lookAgain = 0;

  constructor(endpoint: Endpoint) {
    this.#endpoint = endpoint;
    this.#read = this.#files();
    this.#stub = this.#open(this.#read);
  }

  get stub(): CredentialServiceClient {
    if (performance.now() >= this.#lookAgain) {
      this.#lookAgain = performance.now() + LOOK_EVERY_MS;
      try {
        const read = this.#files();
        if (read.some((octets, index) => !octets.equals(this.#read[index]!))) {
          const before = this.#stub;
          this.#stub = this.#open(read);
          this.#read = read;
          // Its calls that are under way may finish.
          before.close();
        }
      } catch {
        // A file that is not there, or is not the other's counterpart, is about to be.
      }
    }
    return this.#stub;
  }

  close(): void {
    this.#stub.close();
  }

  #files(): Buffer[] {
    return [this.#endpoint.ca, this.#endpoint.key, this.#endpoint.certificate].map((file) => readFileSync(file));
  }

  #open([ca, key, certificate]: Buffer[]): CredentialServiceClient {
    const credentials = grpc.credentials.createSsl(ca, key, certificate);
    return new triseal.v1.CredentialService(this.#endpoint.endpoint, credentials, {
      "grpc.service_config": serviceConfig,
      // A replica that is gone without a word is noticed, and one that comes back is found.
      "grpc.keepalive_time_ms": 60_000,
      "grpc.keepalive_timeout_ms": 10_000,
      "grpc.max_reconnect_backoff_ms": 5_000,
    });
  }
}
