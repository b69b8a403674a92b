//! What a service answers that can't: too much is asked, its store was tampered with, its audit log or its disk is full.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use triseal::grpc::v1::View;

use super::came_out::CameOut;
use super::{DATA, OTHER, REFUSED, Scenario, TRACE, marked, tampering};
use crate::support::http2::{END_HEADERS, HEADERS, frame, header, headers, speak, stream};
use crate::support::{Service, decrypt, encrypt, limited, opaque, reason, until};

impl Scenario {
    /// Two callers that have their shares under way, and a third one.
    pub(super) async fn too_many_calls(&self, out: &mut CameOut) {
        const SHARE: u32 = 4;
        let other = self.secured.authority.client(OTHER);
        let mut holding = Vec::new();
        for pair in [&self.pair, &other] {
            let block =
                [headers("/triseal.v1.CredentialService/EncryptCredential"), header("grpc-timeout", "10S")].concat();
            let calls = (0..SHARE).map(|call| frame(HEADERS, END_HEADERS, stream(call), &block));
            holding.push(speak(self.secured.dial(self.secured.client(pair)).await.unwrap(), calls));
        }
        let under_way = "triseal_requests_in_flight";
        until("full", async || self.secured.service.metric(under_way).await == f64::from(2 * SHARE)).await;
        let third = self.secured.authority.client("spiffe://datasert.com/stranger");
        for pair in [&self.pair, &third] {
            let mut client = self.secured.credentials(self.secured.client(pair));
            out.shown(client.encrypt_credential(marked(encrypt("acme", "main", opaque(REFUSED)))).await).unwrap_err();
        }
        // And those that were held end by their deadline.
        let late = "triseal_requests_total{rpc=\"EncryptCredential\",code=\"DEADLINE_EXCEEDED\",reason=\"\"}";
        until("late", async || self.secured.service.metric(late).await >= f64::from(2 * SHARE)).await;
    }

    pub(super) async fn what_was_tampered_with(&self, out: &mut CameOut) {
        let mut client = self.credentials();
        // Nobody can be asked for an environment key that is not at hand.
        let keys = ["data/environment.json", "data/away.json"].map(|name| self.secured.path(name));
        fs::rename(&keys[0], &keys[1]).unwrap();
        let acme = tampering::CREDENTIALS.iter().map(|(name, wanted)| ("acme", *name, *wanted));
        let others = tampering::CUSTOMERS.iter().map(|(name, wanted)| (*name, "main", *wanted));
        for (customer, credential, wanted) in acme.chain(others) {
            let answer = client.decrypt_credential(decrypt(customer, credential, View::Access)).await;
            let answer = match customer {
                "acme" => answer,
                // An opaque secret has no access view.
                _ => client.decrypt_credential(decrypt(customer, credential, View::Full)).await,
            };
            let refused = out.opened(answer).unwrap_err();
            assert_eq!(reason(&refused), wanted, "{customer} {credential}: {refused:?}");
        }
        fs::rename(&keys[1], &keys[0]).unwrap();
        // A bug, as far as anybody can tell: no revision comes after the last.
        let next = encrypt("acme", "last-revision", opaque(REFUSED));
        let refused = out.shown(client.encrypt_credential(marked(next)).await).unwrap_err();
        assert_eq!(reason(&refused), "INTERNAL");
    }

    /// Its standard output is a pipe, which nobody reads at first.
    pub(super) async fn without_an_audit_log(&mut self, out: &mut CameOut) {
        self.stop(out).await;
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = self.secured.command(&[TRACE, ("TRISEAL__AUDIT__SINK", "stdout")]);
        command.stdout(Stdio::from(writer));
        self.secured.now_served_by(Service::start_with_its_own_output(command).await);
        let mut client = self.credentials();
        for _ in 0..1_000 {
            let stored = client.encrypt_credential(marked(encrypt("acme", "audited", opaque(DATA)))).await;
            if out.shown(stored).is_err() {
                break;
            }
        }
        let reading = std::thread::spawn(move || {
            let mut said = Vec::new();
            reader.read_to_end(&mut said).map(|_| said)
        });
        until("taken", async || client.encrypt_credential(encrypt("acme", "audited", opaque(DATA))).await.is_ok())
            .await;
        self.stop(out).await;
        out.add("standard output", reading.join().unwrap().unwrap());
    }

    /// It ends by itself when its store can't grow.
    pub(super) async fn without_room_in_the_store(&mut self, out: &mut CameOut) {
        let path = |name: &str| self.secured.path(name).metadata().map_or(0, |about| about.len());
        let largest = path("data/store.redb").max(path("data/audit.jsonl")) + (1 << 20);
        let command = limited(&self.secured.command(&[TRACE]), largest);
        self.secured.now_served_by(Service::start(command).await);
        let mut client = self.credentials();
        for number in 0..1_000 {
            let secret = opaque(DATA.repeat(30_000 / DATA.len()));
            let stored = client.encrypt_credential(marked(encrypt("acme", &format!("full{number}"), secret))).await;
            if out.shown(stored).is_err() {
                break;
            }
        }
        self.secured.service.ended().await;
        out.add_text("standard error", &self.secured.service.said_in_all().await);
    }
}
