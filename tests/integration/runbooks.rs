//! `docs/operations`: every command of the runbooks is run, in its order, by a shell and against a real service with something in it. A command that
//! rots fails here. So does one that the policy of `deploy/policy` does not permit to the identity that the page names: each block starts with none.
//!
//! What a person does beside the commands, the test does: it types names back (`--yes`), waits where a message says to try again, and waits less
//! long for the replicas than two minutes.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use tokio::process::Command;
use tonic::transport::Channel;
use triseal::factors::document::{Form, KeyDocument, KeyState};
use triseal::grpc::v1;
use triseal::grpc::v1::acquire_refresh_response::Outcome;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;
use triseal::grpc::v1::key_service_client::KeyServiceClient;
use zeroize::Zeroizing;

use crate::support::key_documents::{parse, write_key_file};
use crate::support::site::Site;
use crate::support::tls::channel_as;
use crate::support::{Service, decrypt, encrypt, oauth, password, program, reason, run, triseal};

/// A page waits for reports of replicas and for jobs, some of them twice.
const PATIENCE: Duration = Duration::from_secs(420);
const CUSTOMER: &str = "acme";
const CREDENTIAL: &str = "realsync.main";
const PASSWORD: &str = "realsync.password.ftp";
/// Who has stored and read what there is.
const PRODUCT: &str = "realsync";
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

/// The shell blocks of a page, in order.
fn blocks(page: &str) -> Vec<String> {
    sections(page).into_iter().flat_map(|(_, blocks)| blocks).collect()
}

/// The shell blocks of a section of a page.
fn section(page: &str, heading: &str) -> Vec<String> {
    let found = sections(page).into_iter().find(|(name, _)| name == heading);
    found.unwrap_or_else(|| panic!("{page} has no section {heading:?}")).1
}

/// The sections of a page that have shell blocks, and these. What stands before the first is one without a name.
fn sections(page: &str) -> Vec<(String, Vec<String>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    let mut block: Option<(String, String)> = None;
    for line in fs::read_to_string(pages().join(page)).unwrap().lines() {
        let trimmed = line.trim_start();
        match (&mut block, trimmed.strip_prefix("```")) {
            (None, Some(kind)) => block = Some((kind.to_owned(), String::new())),
            (Some(_), Some("")) => {
                let (kind, text) = block.take().unwrap();
                match kind.as_str() {
                    "sh" => sections.last_mut().unwrap().1.push(text),
                    // Nothing of ours hides where nothing is run.
                    "console" => assert!(
                        text.lines().all(|line| !line.trim_start().starts_with("triseal")),
                        "{page}: a command of triseal stands in a block that is not run: {text}"
                    ),
                    other => panic!("{page}: a block of kind {other:?}"),
                }
            }
            (Some((_, text)), _) => writeln!(text, "{trimmed}").unwrap(),
            (None, None) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    sections.push((heading.to_owned(), Vec::new()));
                }
            }
        }
    }
    assert!(block.is_none(), "{page}: a block has no end");
    sections.retain(|(_, blocks)| !blocks.is_empty());
    sections
}

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations")
}

/// What a text takes from the list of names: `$NAME`, in capitals.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).map(|rest| {
        let end = rest.find(|character: char| !(character.is_ascii_uppercase() || character == '_'));
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn every_name_in_a_block_is_in_the_list() {
    let listed = fs::read_to_string(pages().join("README.md")).unwrap();
    let mut found = 0;
    for entry in fs::read_dir(pages()).unwrap() {
        let page = entry.unwrap().file_name().into_string().unwrap();
        let text = fs::read_to_string(pages().join(&page)).unwrap();
        // Also of the blocks that are not run.
        for block in text.split("```").skip(1).step_by(2) {
            for name in names(block).filter(|name| name.len() > 1 && *name != "PWD") {
                let set = listed.lines().any(|line| {
                    let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
                    words.any(|word| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
                });
                assert!(set, "{page} uses {name}, which README.md does not list");
                found += 1;
            }
        }
    }
    assert!(found > 40, "{found}");
}

/// What is typed once, before any page: how an identity is taken.
fn identities() -> String {
    let listed = fs::read_to_string(pages().join("README.md")).unwrap();
    let line = listed.lines().find(|line| line.starts_with("as() {")).expect("README.md says how an identity is taken");
    line.to_owned()
}

/// A service with something in it, and all that the pages name.
struct Day<'a> {
    site: &'a Site,
    folder: tempfile::TempDir,
    service: Option<Service>,
    variables: Vec<(String, String)>,
}

impl<'a> Day<'a> {
    async fn new(site: &'a Site) -> Self {
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

    fn below(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    fn service(&self) -> &Service {
        self.service.as_ref().expect("it runs")
    }

    fn command(&self, settings: &[(&str, &str)]) -> Command {
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

    async fn start(&mut self, settings: &[(&str, &str)]) {
        let service = Service::start(self.command(settings)).await;
        self.set("TRISEAL_ENDPOINT", &format!("https://{}", service.address()));
        self.service = Some(service);
    }

    async fn stop(&mut self) {
        assert!(self.service.take().expect("it runs").terminate().await.success());
    }

    /// A connection as a caller of the policy.
    fn channel(&self, caller: &str) -> Channel {
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
    async fn run(&mut self, page: &str) {
        self.run_blocks(page, &blocks(page)).await;
    }

    /// Runs one section of a page that is a choice of them. What was said.
    async fn run_section(&mut self, page: &str, heading: &str) -> String {
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
    async fn run_block(&self, block: &str) -> (bool, String) {
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
    fn ran(&self) -> Vec<String> {
        fs::read_to_string(self.below("shim/log")).unwrap().lines().map(str::to_owned).collect()
    }

    /// What the security team is answered.
    async fn json(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
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

    async fn state_of_credential(&self) -> String {
        let listed = self.json(&["credential", "get", "--customer", CUSTOMER, "--credential", CREDENTIAL]).await;
        listed[0]["state"].as_str().unwrap().to_owned()
    }

    async fn state_of_customer(&self) -> String {
        self.json(&["customer", "get", CUSTOMER]).await[0]["state"].as_str().unwrap().to_owned()
    }

    /// No record is under version 1 of any factor of these.
    async fn nothing_is_under_the_old_version_of(&self, factors: &[&str]) {
        let usage = self.json(&["key", "usage", "--customer", CUSTOMER]).await;
        let counts = usage[0]["counts"].as_array().unwrap();
        assert!(!counts.is_empty());
        for count in counts {
            assert!(!factors.contains(&count["factor"].as_str().unwrap()) || count["version"] != 1, "{counts:?}");
        }
    }
}

#[test]
fn every_page_is_listed_and_run() {
    let listed = fs::read_to_string(pages().join("README.md")).unwrap();
    let source = include_str!("runbooks.rs");
    let mut found = 0;
    for entry in fs::read_dir(pages()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(listed.contains(&format!("]({name})")), "{name} is not listed");
            let whole = source.contains(&format!(".run(\"{name}\")"));
            for (heading, _) in sections(&name) {
                let part = source.contains(&format!("run_section(\"{name}\", \"{heading}\")"));
                assert!(whole || part, "{name}: {heading:?} is not run");
            }
            found += 1;
        }
    }
    assert!(found >= 8);
    // The list itself has nothing to run, and is read as the others are.
    assert!(blocks("README.md").is_empty());
}

async fn rotate_keys(site: &Site) {
    let mut day = Day::new(site).await;
    day.run("rotate-keys.md").await;
    day.nothing_is_under_the_old_version_of(&["codebase", "environment", "customer"]).await;
    let codebase = fs::read_to_string(day.below("codebase-keys.json")).unwrap();
    assert!(codebase.contains("\"primary\": 2") && codebase.contains("\"state\": \"retired\""));
    let customer = &day.json(&["customer", "get", CUSTOMER]).await[0];
    assert_eq!(
        (customer["primary_version"].as_u64(), &customer["key_versions"][0]["state"]),
        (Some(2), &"retired".into())
    );
}

async fn leaked_key(site: &Site) {
    let mut day = Day::new(site).await;
    day.run("leaked-key.md").await;
    day.nothing_is_under_the_old_version_of(&["environment", "customer"]).await;
}

mod embedded {
    use super::*;

    #[tokio::test]
    async fn rotate_keys() {
        super::rotate_keys(&Site::embedded()).await;
    }

    #[tokio::test]
    async fn leaked_key() {
        super::leaked_key(&Site::embedded()).await;
    }

    #[tokio::test]
    async fn lost_kms_key() {
        super::lost_kms_key(&Site::embedded()).await;
    }
}

mod aws {
    use super::*;

    #[tokio::test]
    #[ignore = "needs tests/aws/up"]
    async fn rotate_keys() {
        super::rotate_keys(&Site::aws().await).await;
    }

    #[tokio::test]
    #[ignore = "needs tests/aws/up"]
    async fn leaked_key() {
        super::leaked_key(&Site::aws().await).await;
    }

    #[tokio::test]
    #[ignore = "needs tests/aws/up"]
    async fn lost_kms_key() {
        super::lost_kms_key(&Site::aws().await).await;
    }
}

#[tokio::test]
async fn a_record_that_does_not_open() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    day.run_section("lost-key.md", "A record does not open").await;
    assert_eq!(day.state_of_credential().await, "needs_reauth");
}

#[tokio::test]
async fn the_drill() {
    let site = Site::embedded();
    Day::new(&site).await.run_section("lost-key.md", "The drill, twice a year").await;
}

/// Stored by a product, and read by it.
async fn is_stored(day: &Day<'_>, customer: &str) -> Result<(), tonic::Status> {
    let mut client = CredentialServiceClient::new(day.channel(PRODUCT));
    client.encrypt_credential(encrypt(customer, CREDENTIAL, oauth("anew", "anew"))).await?;
    client.decrypt_credential(decrypt(customer, CREDENTIAL, v1::View::Access)).await.map(drop)
}

#[tokio::test]
async fn a_lost_environment_key() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    let Site::Embedded(folder) = &site else { unreachable!() };
    let keys = folder.path().join("data/environment.json");
    fs::remove_file(&keys).unwrap();
    // What runs, opens.
    let reading = decrypt(CUSTOMER, PASSWORD, v1::View::Full);
    CredentialServiceClient::new(day.channel(PRODUCT)).decrypt_credential(reading).await.unwrap();
    day.stop().await;
    // Nothing starts there any more, with no key and with another one.
    for wanted in ["is missing", "not the one that this store's records were sealed under"] {
        let (ended, told) = Service::spawn(day.command(&[])).ended_saying().await;
        assert!(!ended.success() && told.contains(wanted), "{told}");
        if !keys.exists() {
            assert!(run(triseal(&["keygen", "environment", keys.to_str().unwrap()])).await.status.success());
        }
    }
    day.run_section("lost-key.md", "Nothing was found: a key of the environment or of the codebase").await;
    is_stored(&day, CUSTOMER).await.unwrap();
}

/// The section on the KMS key, run after it is gone.
async fn lost_kms_key(site: &Site) {
    let mut day = Day::new(site).await;
    day.stop().await;
    let mut settings = Vec::new();
    let another;
    match site {
        Site::Embedded(folder) => {
            let path = folder.path().join("data/insecure-local-kms.key");
            crate::support::write(path, &Base64::encode_string(&[9; 32]));
        }
        Site::Aws(aws) => {
            aws.kms.disable_key().key_id(&aws.key).send().await.unwrap();
            another = aws.kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap();
            settings.push(("TRISEAL__FACTORS__KMS__WRAP_WITH", another.as_str()));
        }
    }
    day.start(&settings).await;
    let refused = is_stored(&day, CUSTOMER).await.unwrap_err();
    assert_eq!(reason(&refused), "KMS_REFUSED");
    // One that came afterwards has lost nothing.
    let request = v1::CreateCustomerRequest { customer_id: "later".into() };
    CustomerServiceClient::new(day.channel(PRODUCT)).create_customer(request).await.unwrap();
    is_stored(&day, "later").await.unwrap();

    let told = day.run_section("lost-key.md", "Nothing was found: the KMS key").await;
    for lost in [CREDENTIAL, PASSWORD] {
        assert!(told.contains(&format!("{CUSTOMER} {lost} KMS_REFUSED")), "{told}");
    }
    let listed = day.json(&["credential", "list"]).await;
    let states: Vec<_> = listed.iter().map(|one| (one["customer_id"].as_str(), one["state"].as_str())).collect();
    let (lost, kept) = ((Some(CUSTOMER), Some("needs_reauth")), (Some("later"), Some("active")));
    assert_eq!(states.iter().filter(|state| **state == lost).count(), 2, "{states:?}");
    assert!(states.contains(&kept), "{states:?}");
    is_stored(&day, CUSTOMER).await.unwrap();
    assert_eq!(day.state_of_credential().await, "active");
    is_stored(&day, "later").await.unwrap();
}

/// A drill that any copy would pass would be none.
#[tokio::test]
async fn the_drill_finds_a_copy_that_is_another_key() {
    let site = Site::embedded();
    let day = Day::new(&site).await;
    let copy = day.below("drill/environment.json");
    fs::remove_file(&copy).unwrap();
    assert!(run(triseal(&["keygen", "environment", &copy])).await.status.success());
    let drill = blocks("lost-key.md").into_iter().find(|block| block.contains("$DRILL_ENDPOINT")).unwrap();
    let (succeeded, told) = day.run_block(&drill).await;
    assert!(!succeeded && told.contains("environment key of version 1"), "{told}");
}

#[tokio::test]
async fn stolen_certificate() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    day.set("CALLER", "spiffe://datasert.com/realtask");
    day.run("stolen-certificate.md").await;
    let ran = day.ran();
    for refused in ["4 policy explain", "4 credential list"] {
        assert!(ran.iter().any(|line| line.starts_with(refused)), "{ran:?}");
    }
}

/// Each of the two ways shuts the thief out by itself.
#[tokio::test]
async fn a_thief_is_shut_out_by_the_list_and_by_policy() {
    for (way, wanted) in
        [("keygen certificates", "it has been revoked"), ("stolen.cedar", "policy does not permit this")]
    {
        let site = Site::embedded();
        let mut day = Day::new(&site).await;
        day.set("CALLER", "spiffe://datasert.com/realtask");
        let (succeeded, told) = day.run_block("as realtask\ntriseal credential list").await;
        assert!(succeeded, "{told}");
        let blocks = blocks("stolen-certificate.md");
        let shut = blocks.iter().find(|block| block.contains(way)).unwrap();
        let (succeeded, told) = day.run_block(shut).await;
        assert!(succeeded && !told.contains("STILL PERMITTED"), "{told}");
        let proof = blocks.iter().find(|block| block.contains("as \"$NAME\"")).unwrap();
        let (succeeded, told) = day.run_block(proof).await;
        assert!(succeeded && told.contains(wanted), "{told}");
    }
}

#[tokio::test]
async fn breach_by_a_caller() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    day.run("breach-by-a-caller.md").await;
    assert_eq!(day.state_of_credential().await, "needs_reauth");
    assert_eq!(day.state_of_customer().await, "active");
}

#[tokio::test]
async fn a_customer_leaves_and_comes_back() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    day.run("customer-leaves.md").await;
    assert_eq!(day.state_of_customer().await, "pending_destruction");
    day.run("customer-destroyed.md").await;
    assert_eq!(day.state_of_customer().await, "active");
}

/// With a second version for an hour, and the first one retired.
fn rotated_and_retired(document: KeyDocument) -> KeyDocument {
    let (now, key) = (jiff::Timestamp::now(), Zeroizing::new([2; 32]));
    let then = now.checked_sub(jiff::SignedDuration::from_hours(1)).unwrap();
    let promoted = document.with_added(key, then).unwrap().into_document().with_promoted(then).unwrap().into_document();
    promoted.with_retired(1, Duration::ZERO, now).unwrap().into_document()
}

#[tokio::test]
async fn restore_a_table() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    // What was under way at the moment to which the tables are restored.
    let mut keys = KeyServiceClient::new(day.channel("security"));
    let job = keys.start_reencryption(v1::StartReencryptionRequest::default()).await.unwrap();
    let job = job.into_inner().job.unwrap().job_id;
    day.stop().await;
    // Since that moment both factors were rotated, and their first versions retired.
    let Site::Embedded(data) = &site else { unreachable!() };
    let environment = data.path().join("data/environment.json");
    let codebase = PathBuf::from(day.below("codebase-keys.json"));
    for (form, path) in [(Form::Environment, &environment), (Form::Codebase, &codebase)] {
        write_key_file(path, &rotated_and_retired(parse(form, &fs::read_to_string(path).unwrap())), form);
    }
    day.start(&[("TRISEAL__STORE__RESTORED", "true")]).await;
    let reading = decrypt(CUSTOMER, CREDENTIAL, v1::View::Access);
    let refused = CredentialServiceClient::new(day.channel(PRODUCT)).decrypt_credential(reading).await.unwrap_err();
    assert_eq!(reason(&refused), "KEY_VERSION_RETIRED");
    day.stop().await;
    day.run("restore-a-table.md").await;
    day.nothing_is_under_the_old_version_of(&["environment"]).await;
    let codebase = parse(Form::Codebase, &fs::read_to_string(codebase).unwrap());
    assert_eq!((codebase.primary, codebase.keys[0].state), (2, KeyState::Enabled));
    let listed = day.json(&["reencrypt", "list"]).await;
    assert!(listed.iter().any(|one| one["job_id"] == job && one["state"] == "cancelled"), "{listed:?}");
    let refreshed = fs::read_to_string(day.below("refreshed.txt")).unwrap();
    assert_eq!(refreshed.trim(), format!("{CUSTOMER}/{CREDENTIAL}"));
    assert_eq!(day.state_of_credential().await, "needs_reauth");
}
