//! The day on which a page is followed: a service over TLS under the policy of `deploy/policy`, something in it, and a shell that runs the
//! page's blocks. It knows what a page has a person do beside the commands, and no outcome.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tonic::transport::Channel;
use triseal::grpc::v1;
use triseal::grpc::v1::acquire_refresh_response::Outcome;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;

use super::pages::{blocks, identities, section};
use super::{CREDENTIAL, CUSTOMER, PASSWORD, PRODUCT};
use crate::support::site::Site;
use crate::support::tls::channel_as;
use crate::support::{Service, decrypt, encrypt, oauth, password, program, run, triseal};

/// A page waits for reports of replicas and for jobs, some of them twice.
const PATIENCE: Duration = Duration::from_secs(420);
const QUICK: [(&str, &str); 3] = [
    ("TRISEAL__CACHE__CUSTOMER_STALENESS", "1s"),
    ("TRISEAL__FACTORS__FILE__POLL", "200ms"),
    ("TRISEAL__FACTORS__SECRETS_MANAGER__POLL", "200ms"),
];

/// `triseal` as the pages type it. Each run is noted with its exit code.
const SHIM: &str = r#"#!/bin/sh
if [ -n "${SECRET_IS_A_FILE-}" ]; then
  for argument do
    shift
    if [ "$argument" = --secret ]; then argument=--file; fi
    set -- "$@" "$argument"
  done
fi
case "$1 $2 $3" in
  "rotate environment "*) set -- "$@" --yes --settle 1s ;;
  "key retire environment") set -- "$@" --yes --max-age 0s ;;
  "key retire "* | "key unretire "* | "customer destroy "* | "credential mark-needs-reauth "* | "rotate customer --all") set -- "$@" --yes ;;
esac
while :; do
  "$TRISEAL_BINARY" "$@" 2> "$SHIM/stderr.$$"
  code=$?
  cat "$SHIM/stderr.$$" >&2
  if [ $code = 4 ] && grep -q "try again \|wait until .triseal replicas." "$SHIM/stderr.$$"; then sleep 2; else break; fi
done
echo "$code $*" >> "$SHIM/log"
exit $code
"#;

/// A service with something in it, and all that the pages name.
pub(super) struct Day<'a> {
    site: &'a Site,
    folder: tempfile::TempDir,
    service: Option<Service>,
    variables: Vec<(String, String)>,
}

impl<'a> Day<'a> {
    pub(super) async fn new(site: &'a Site) -> Self {
        let mut day = Self { site, folder: tempfile::tempdir().unwrap(), service: None, variables: Vec::new() };
        fs::create_dir(day.below("shim")).unwrap();
        fs::write(day.below("shim/log"), "").unwrap();
        for (name, text) in [("triseal", SHIM), ("triseald", "#!/bin/sh\nexec \"$TRISEALD_BINARY\" \"$@\"\n")] {
            fs::write(day.below(&format!("shim/{name}")), text).unwrap();
            fs::set_permissions(day.below(&format!("shim/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
        }
        day.prepare_identities().await;
        day.start(&[]).await;
        let began = jiff::Timestamp::now();
        day.live().await;
        day.stop().await;
        day.prepare_audit().await;
        day.prepare_keys().await;
        let day_before = began.checked_sub(jiff::SignedDuration::from_hours(24)).unwrap();
        for (name, value) in [
            ("CUSTOMER", CUSTOMER),
            ("CREDENTIAL", CREDENTIAL),
            ("CALLER", "spiffe://datasert.com/realsync"),
            ("SINCE", &day_before.to_string()),
            ("RESTORED", &began.to_string()),
            ("DAY_BEFORE", &day_before.to_string()),
            ("OLD", "1"),
        ] {
            day.set(name, value);
        }
        day.start(&[]).await;
        day
    }

    pub(super) fn below(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub(super) fn service(&self) -> &Service {
        self.service.as_ref().expect("it runs")
    }

    pub(super) fn command(&self, settings: &[(&str, &str)]) -> Command {
        let mut command = self.site.command();
        command.envs(QUICK).envs(settings.iter().copied());
        for (name, value) in [("SINK", "file"), ("FILE", &*self.below("audit.jsonl"))] {
            command.env(format!("TRISEAL__AUDIT__{name}"), value);
        }
        for (name, file) in [
            ("TLS__CERTIFICATE", "certificates/server.pem"),
            ("TLS__PRIVATE_KEY", "certificates/server.key"),
            ("TLS__CLIENT_CA", "certificates/ca.pem"),
            ("TLS__CLIENT_CRL", "certificates/ca.crl"),
            ("POLICY__DIRECTORY", "deployed policy"),
        ] {
            command.env(format!("TRISEAL__{name}"), self.below(file));
        }
        command.env("TRISEAL__TLS__TRUST_DOMAIN", "datasert.com").env("TRISEAL__INSECURE__PLAINTEXT", "false");
        command
    }

    pub(super) async fn start(&mut self, settings: &[(&str, &str)]) {
        let service = Service::start(self.command(settings)).await;
        self.set("TRISEAL_ENDPOINT", &format!("https://{}", service.address()));
        self.service = Some(service);
    }

    pub(super) async fn stop(&mut self) {
        assert!(self.service.take().expect("it runs").terminate().await.success());
    }

    /// A connection as a caller of the policy.
    pub(super) fn channel(&self, caller: &str) -> Channel {
        channel_as(caller, Path::new(&self.below("certificates")), self.service().address())
    }

    /// A customer whose tokens are stored, refreshed and read, and a password.
    async fn live(&self) {
        let request = v1::CreateCustomerRequest { customer_id: CUSTOMER.into() };
        CustomerServiceClient::new(self.channel(PRODUCT)).create_customer(request).await.unwrap();
        let mut client = CredentialServiceClient::new(self.channel(PRODUCT));
        client.encrypt_credential(encrypt(CUSTOMER, CREDENTIAL, oauth("access", "refresh"))).await.unwrap();
        client.encrypt_credential(encrypt(CUSTOMER, PASSWORD, password("secret"))).await.unwrap();
        let request = v1::AcquireRefreshRequest {
            customer_id: CUSTOMER.into(),
            credential_id: CREDENTIAL.into(),
            rejected_revision: Some(1),
            ..v1::AcquireRefreshRequest::default()
        };
        let outcome = client.acquire_refresh(request).await.unwrap().into_inner().outcome.unwrap();
        let Outcome::Lease(lease) = outcome else { panic!("{outcome:?}") };
        let Some(v1::secret::Value::SalesforceOauth(tokens)) = oauth("access 2", "refresh 2").value else { panic!() };
        let request = v1::CompleteRefreshRequest {
            customer_id: CUSTOMER.into(),
            credential_id: CREDENTIAL.into(),
            lease_token: lease.lease_token,
            salesforce_oauth: Some(tokens),
        };
        client.complete_refresh(request).await.unwrap();
        client.decrypt_credential(decrypt(CUSTOMER, CREDENTIAL, v1::View::Access)).await.unwrap();
    }

    /// A certificate for each caller, and the policy: where it is written, and where the service reads it.
    async fn prepare_identities(&mut self) {
        let certificates = self.below("certificates");
        let mut keygen = triseal(&["keygen", "certificates", &certificates]);
        for caller in [PRODUCT, "realtask", "lifecycle", "security"] {
            keygen.args(["--caller", caller]);
        }
        assert!(run(keygen).await.status.success());
        let (written, deployed) = (self.below("policy"), self.below("deployed policy"));
        for directory in [&written, &deployed] {
            fs::create_dir(directory).unwrap();
            for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policy")).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), Path::new(directory).join(entry.file_name())).unwrap();
            }
        }
        self.set("TRISEAL_CA", &self.below("certificates/ca.pem"));
        for (name, value) in [
            ("CERTIFICATES", &*certificates),
            ("NAME", "realtask"),
            ("PRODUCT", PRODUCT),
            ("POLICY", &written),
            ("DEPLOYED", &deployed),
        ] {
            self.set(name, value);
        }
    }

    /// The log as it is now, and its heads.
    async fn prepare_audit(&mut self) {
        fs::create_dir(self.below("kept log")).unwrap();
        fs::copy(self.below("audit.jsonl"), self.below("kept log/audit.jsonl")).unwrap();
        let store = match self.site {
            Site::Embedded(folder) => folder.path().join("data/store.redb").to_str().unwrap().to_owned(),
            Site::Aws(aws) => format!("dynamodb:{}", aws.tables.operations),
        };
        let heads = run(self.with_aws(triseal(&["audit", "checkpoints", &store]))).await;
        assert!(heads.status.success() && !heads.stdout.is_empty(), "{}", String::from_utf8_lossy(&heads.stderr));
        fs::write(self.below("heads.jsonl"), heads.stdout).unwrap();
        let (kept, heads) = (self.below("kept log"), self.below("heads.jsonl"));
        self.set("AUDIT", &kept);
        self.set("HEADS", &heads);
    }

    /// The keys' documents, and a copy of everything for the drill.
    async fn prepare_keys(&mut self) {
        match self.site {
            Site::Aws(aws) => self.set("SECRET", &aws.secret),
            Site::Embedded(folder) => {
                let data = folder.path().join("data");
                self.set("SECRET", data.join("environment.json").to_str().unwrap());
                self.set("SECRET_IS_A_FILE", "yes");
                fs::create_dir(self.below("drill")).unwrap();
                for name in ["store.redb", "environment.json", "insecure-local-kms.key"] {
                    fs::copy(data.join(name), self.below(&format!("drill/{name}"))).unwrap();
                }
                let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                let drill = |name: &str| self.below(&format!("drill/{name}"));
                let settings = format!(
                    "deployment = 'dev'\nserver.listen = '127.0.0.1:{port}'\n\
                     audit = {{ sink = 'file', file = '{}' }}\n\
                     factors = {{ environment = 'file', customer = 'local', file.path = '{}', local.master_key = '{}' }}\n\
                     store = {{ backend = 'embedded', embedded.path = '{}' }}\n\
                     insecure = {{ plaintext = true, development_codebase_key = true, local_kms = true }}\n",
                    drill("audit.jsonl"),
                    drill("environment.json"),
                    drill("insecure-local-kms.key"),
                    drill("store.redb"),
                );
                fs::write(drill("triseald.toml"), settings).unwrap();
                let config = drill("triseald.toml");
                self.set("DRILL", &config);
                self.set("DRILL_ENDPOINT", &format!("http://127.0.0.1:{port}"));
            }
        }
        // The binary's, but for its second version: that is to be added.
        let codebase = self.below("codebase-keys.json");
        assert!(run(triseal(&["keygen", "codebase", &codebase])).await.status.success());
        self.set("CODEBASE_KEYS", &codebase);
    }

    fn with_aws(&self, command: Command) -> Command {
        match self.site {
            Site::Embedded(_) => command,
            Site::Aws(aws) => aws.with_aws(command),
        }
    }

    /// Runs a page, block after block.
    pub(super) async fn run(&mut self, page: &str) {
        self.run_blocks(page, &blocks(page)).await;
    }

    /// Runs one section of a page that is a choice of them. What was said.
    pub(super) async fn run_section(&mut self, page: &str, heading: &str) -> String {
        self.run_blocks(page, &section(page, heading)).await
    }

    async fn run_blocks(&mut self, page: &str, blocks: &[String]) -> String {
        assert!(!blocks.is_empty(), "{page} has no commands");
        let (before, mut wanted, mut said) = (self.ran().len(), 0, String::new());
        for block in blocks {
            // What a page has a person do before: a setting, and a restart.
            let [keys, store] = ["new-environment-keys.json", "new-store.redb"].map(|name| self.below(name));
            let elsewhere = [("TRISEAL__FACTORS__FILE__PATH", &*keys), ("TRISEAL__STORE__EMBEDDED__PATH", &*store)];
            let setting: Option<&[_]> = if block.contains("--promote") {
                Some(&[("TRISEAL__FACTORS__CODEBASE_PRIMARY", "2")])
            } else if page == "lost-key.md" && block.contains("customer create") {
                Some(&elsewhere)
            } else if page == "restore-a-table.md" && block.contains("audit report") {
                Some(&[("TRISEAL__STORE__RESTORED", "true")])
            } else if page == "restore-a-table.md" && block.contains("key usage") {
                Some(&[])
            } else {
                None
            };
            if let Some(setting) = setting {
                if self.service.is_some() {
                    self.stop().await;
                }
                self.start(setting).await;
            }
            // As it is typed, but for what begins to be typed on the line before.
            wanted += block.matches("triseal ").count();
            let (succeeded, told) = self.run_block(block).await;
            assert!(succeeded && !told.contains("STILL PERMITTED"), "{page}: {block}\n{told}");
            said += &told;
        }
        let ran = self.ran().split_off(before);
        assert!(ran.len() >= wanted, "{page}: {wanted} commands are typed, and {} were run: {ran:?}", ran.len());
        for line in &ran {
            let fine = match line.split_once(' ').unwrap() {
                ("0", _) => true,
                // That it is refused is what the page asks for.
                ("4", arguments) => page == "stolen-certificate.md" && !arguments.starts_with("policy check"),
                // That a record is lost is what it is about.
                ("3", arguments) => page == "lost-key.md" && arguments == "reencrypt watch",
                // Until it serves.
                ("1", arguments) => arguments.starts_with("--endpoint") && arguments.ends_with("replicas"),
                _ => false,
            };
            assert!(fine, "{page}: {line}");
        }
        said
    }

    /// Whether it ended well, and what it said.
    pub(super) async fn run_block(&self, block: &str) -> (bool, String) {
        let mut command = program("sh", &["-eu", "-c", &format!("{}\n{block}", identities())]);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.below("shim"));
        command.current_dir(self.folder.path()).envs(self.variables.iter().cloned());
        command.env("PATH", path).env("SHIM", self.below("shim"));
        command.env("TRISEAL_BINARY", env!("CARGO_BIN_EXE_triseal"));
        command.env("TRISEALD_BINARY", env!("CARGO_BIN_EXE_triseald"));
        let output = tokio::time::timeout(PATIENCE, self.with_aws(command).output()).await;
        let output = output.unwrap_or_else(|_| panic!("this hangs: {block}")).unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// What was run: exit code and arguments.
    pub(super) fn ran(&self) -> Vec<String> {
        fs::read_to_string(self.below("shim/log")).unwrap().lines().map(str::to_owned).collect()
    }

    /// What the security team is answered.
    pub(super) async fn json(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let mut command = triseal(&[arguments, &["--output", "json"]].concat());
        command.envs(self.variables.iter().cloned());
        for (name, file) in
            [("TRISEAL_CERT", "certificates/security.pem"), ("TRISEAL_KEY", "certificates/security.key")]
        {
            command.env(name, self.below(file));
        }
        let output = run(command).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(super) async fn state_of_credential(&self) -> String {
        let listed = self.json(&["credential", "get", "--customer", CUSTOMER, "--credential", CREDENTIAL]).await;
        listed[0]["state"].as_str().unwrap().to_owned()
    }

    pub(super) async fn state_of_customer(&self) -> String {
        self.json(&["customer", "get", CUSTOMER]).await[0]["state"].as_str().unwrap().to_owned()
    }

    /// No record is under version 1 of any factor of these.
    pub(super) async fn nothing_is_under_the_old_version_of(&self, factors: &[&str]) {
        let usage = self.json(&["key", "usage", "--customer", CUSTOMER]).await;
        let counts = usage[0]["counts"].as_array().unwrap();
        assert!(!counts.is_empty());
        for count in counts {
            assert!(!factors.contains(&count["factor"].as_str().unwrap()) || count["version"] != 1, "{counts:?}");
        }
    }
}
