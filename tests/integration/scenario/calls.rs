//! What any caller may ask, and is answered or refused.

use tonic::Code;
use triseal::grpc::v1::{self, View};

use super::came_out::CameOut;
use super::{
    ACCESS, CALLER, DATA, OTHER, PASSWORD, REFRESH, REFUSED, SECURITY, Scenario, UNREADABLE, marked, tampering,
};
use crate::support::certificates::uri;
use crate::support::{decrypt, encrypt, oauth, opaque, password, reason};

/// A request of CustomerService that names a customer alone.
macro_rules! of {
    ($request:ident, $customer:expr) => {
        marked(v1::$request { customer_id: $customer.to_string() })
    };
}

fn planted_password() -> v1::Secret {
    let mut secret = password(PASSWORD);
    if let Some(v1::secret::Value::Password(password)) = &mut secret.value {
        password.security_token = SECURITY.to_owned();
    }
    secret
}

impl Scenario {
    pub(super) async fn ordinary_calls(&self, out: &mut CameOut) {
        self.customers_live(out).await;
        let mut credentials = self.credentials();
        for (number, secret) in [oauth(ACCESS, REFRESH), planted_password(), opaque(DATA)].into_iter().enumerate() {
            self.a_credential_lives(number, secret, out).await;
        }
        for (name, _) in tampering::CREDENTIALS {
            out.shown(credentials.encrypt_credential(marked(encrypt("acme", name, oauth(ACCESS, REFRESH)))).await)
                .unwrap();
        }
        for (name, _) in tampering::CUSTOMERS {
            out.shown(self.customers().create_customer(of!(CreateCustomerRequest, name)).await).unwrap();
            out.shown(credentials.encrypt_credential(marked(encrypt(name, "main", opaque(DATA)))).await).unwrap();
        }
        let list = |page_size| marked(v1::ListCredentialsRequest { page_size, ..Default::default() });
        out.shown(credentials.list_credentials(list(1)).await).unwrap();
        out.shown(credentials.list_credentials(list(-1)).await).unwrap_err();
        self.batches(out).await;
        self.not_for_everybody(out).await;
        self.what_is_no_message(out).await;
        self.many_at_once(out).await;
    }

    async fn customers_live(&self, out: &mut CameOut) {
        let mut client = self.customers();
        for name in ["acme", "leaving"] {
            out.shown(client.create_customer(of!(CreateCustomerRequest, name)).await).unwrap();
        }
        out.shown(client.create_customer(of!(CreateCustomerRequest, REFUSED)).await).unwrap_err();
        out.shown(client.get_customer(of!(GetCustomerRequest, "acme")).await).unwrap();
        out.shown(client.get_customer(of!(GetCustomerRequest, "nobody")).await).unwrap_err();
        out.shown(client.list_customers(marked(v1::ListCustomersRequest::default())).await).unwrap();
        let token = v1::ListCustomersRequest { page_token: REFUSED.to_owned(), ..Default::default() };
        out.shown(client.list_customers(marked(token)).await).unwrap_err();

        let destroy = || marked(v1::DestroyCustomerRequest { customer_id: "leaving".to_owned(), days: 7 });
        out.shown(client.destroy_customer(destroy()).await).unwrap_err();
        out.shown(client.restore_customer(of!(RestoreCustomerRequest, "leaving")).await).unwrap_err();
        out.shown(client.disable_customer(of!(DisableCustomerRequest, "nobody")).await).unwrap_err();
        out.shown(client.disable_customer(of!(DisableCustomerRequest, "leaving")).await).unwrap();
        let mut credentials = self.credentials();
        out.shown(credentials.encrypt_credential(marked(encrypt("leaving", "main", opaque(REFUSED)))).await)
            .unwrap_err();
        out.shown(client.destroy_customer(destroy()).await).unwrap();
        out.shown(credentials.encrypt_credential(marked(encrypt("leaving", "main", opaque(REFUSED)))).await)
            .unwrap_err();
        out.shown(client.enable_customer(of!(EnableCustomerRequest, "leaving")).await).unwrap_err();
        out.shown(client.restore_customer(of!(RestoreCustomerRequest, "leaving")).await).unwrap();
        out.shown(client.enable_customer(of!(EnableCustomerRequest, "leaving")).await).unwrap();
    }

    /// Stored, and stored again under each condition that refuses it; shown in both views; deleted.
    async fn a_credential_lives(&self, number: usize, secret: v1::Secret, out: &mut CameOut) {
        let mut client = self.credentials();
        let key = format!("sign-up-{number}");
        let keyed =
            |secret| v1::EncryptCredentialRequest { idempotency_key: key.clone(), ..encrypt("acme", "main", secret) };
        let if_revision = |revision, secret| v1::EncryptCredentialRequest {
            if_revision: Some(revision),
            ..encrypt("acme", "main", secret)
        };
        for stored in [keyed(secret.clone()), keyed(secret.clone())] {
            out.shown(client.encrypt_credential(marked(stored)).await).unwrap();
        }
        for refused in [
            keyed(opaque(REFUSED)),
            if_revision(0, opaque(REFUSED)),
            if_revision(99, opaque(REFUSED)),
            encrypt("nobody", "main", opaque(REFUSED)),
            encrypt(REFUSED, REFUSED, opaque(REFUSED)),
            encrypt("acme", "main", oauth("", REFUSED)),
            encrypt("acme", "main", opaque(REFUSED.repeat(2_000))),
        ] {
            out.shown(client.encrypt_credential(marked(refused)).await).unwrap_err();
        }
        for view in [View::Access, View::Full] {
            let _ = out.opened(client.decrypt_credential(decrypt("acme", "main", view)).await);
        }
        out.opened(client.decrypt_credential(decrypt("acme", "missing", View::Full)).await).unwrap_err();
        let get = |credential: &str| {
            marked(v1::GetCredentialRequest { customer_id: "acme".to_owned(), credential_id: credential.to_owned() })
        };
        out.shown(client.get_credential(get("main")).await).unwrap();
        out.shown(client.get_credential(get(REFUSED)).await).unwrap_err();
        let delete = || {
            let (customer_id, credential_id) = ("acme".to_owned(), "main".to_owned());
            marked(v1::DeleteCredentialRequest { customer_id, credential_id, if_revision: None })
        };
        out.shown(client.delete_credential(delete()).await).unwrap();
        out.shown(client.delete_credential(delete()).await).unwrap_err();
    }

    /// More than one reply holds, and none at all.
    async fn batches(&self, out: &mut CameOut) {
        let mut client = self.credentials();
        let large = {
            let mut secret = oauth(&ACCESS.repeat(16_384 / ACCESS.len()), &REFRESH.repeat(16_384 / REFRESH.len()));
            let Some(v1::secret::Value::SalesforceOauth(oauth)) = &mut secret.value else { panic!("another kind") };
            oauth.scopes = vec![SECURITY.repeat(256 / SECURITY.len()); 100];
            secret
        };
        out.shown(client.encrypt_credential(marked(encrypt("acme", "large", large))).await).unwrap();
        let asked = |credential: &str| decrypt("acme", credential, View::Full).into_inner();
        let requests = [vec![asked("large"); 98], vec![asked("missing"), asked(REFUSED)]].concat();
        let batch = v1::BatchDecryptCredentialsRequest { requests };
        let results = out.opened(client.batch_decrypt_credentials(marked(batch)).await).unwrap();
        out.items(&results);
        let none = v1::BatchDecryptCredentialsRequest { requests: Vec::new() };
        out.opened(client.batch_decrypt_credentials(marked(none)).await).unwrap_err();
    }

    /// A caller that policy does not know, and one that is none.
    async fn not_for_everybody(&self, out: &mut CameOut) {
        let authority = &self.secured.authority;
        let stranger = authority.client("spiffe://datasert.com/stranger");
        let nobody = authority.client_with(vec![uri(CALLER), uri(OTHER)], |_| {});
        for pair in [stranger, nobody] {
            let mut client = self.secured.credentials(self.secured.client(&pair));
            out.shown(client.encrypt_credential(marked(encrypt("acme", "main", opaque(REFUSED)))).await).unwrap_err();
            out.opened(client.decrypt_credential(decrypt("acme", "large", View::Full)).await).unwrap_err();
        }
    }

    /// A secret where a customer's id is expected, in octets that are no text.
    async fn what_is_no_message(&self, out: &mut CameOut) {
        let (channel, _) = self.secured.channel(self.secured.client(&self.pair));
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.unwrap();
        let message = v1::Opaque { data: UNREADABLE.to_vec(), content_type: REFUSED.to_owned() };
        let path = "/triseal.v1.CredentialService/EncryptCredential".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<v1::Opaque, v1::EncryptCredentialResponse>::default();
        let status = out.shown(client.unary(marked(message), path, codec).await).unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "BAD_FIELD"));
    }

    /// One credential, and more writers than one can be patient with.
    async fn many_at_once(&self, out: &mut CameOut) {
        const WRITERS: usize = 64;
        for _round in 0..50 {
            let writing = (0..WRITERS).map(|_| {
                let mut client = self.credentials();
                async move { client.encrypt_credential(encrypt("acme", "contended", opaque(DATA))).await }
            });
            for answer in futures_util::future::join_all(writing).await {
                let _ = out.shown(answer);
            }
            if out.reasons.contains("CHANGED_CONCURRENTLY") {
                return;
            }
        }
        panic!("nobody was kept from writing by others");
    }
}
