//! The directory: what is read of it, and what becomes of its changes.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tempfile::TempDir;

use super::*;

/// A good directory.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), ANN_READS_HERS);
    directory
}

fn write(directory: &Path, policies: &str) {
    fs::write(directory.join(SCHEMA), SCHEMA_TEXT).unwrap();
    fs::write(directory.join(ENTITIES), ENTITIES_TEXT).unwrap();
    fs::write(directory.join("test.cedar"), policies).unwrap();
}

#[test]
fn only_files_of_policies_are_read_and_in_the_order_of_their_names() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.cedar"), EVERYTHING).unwrap();
    for other in [".hidden.cedar", "test.cedar~", "test.cedar.swp", "README.md", "cedar"] {
        fs::write(path(other), "no policy").unwrap();
    }
    fs::create_dir(path("sub")).unwrap();
    fs::write(path("sub").join("b.cedar"), "no policy").unwrap();
    let read = Texts::settled(directory.path()).unwrap();
    assert_eq!(read.policies, [text("a.cedar", EVERYTHING), text("test.cedar", ANN_READS_HERS)]);
    assert_eq!((read.schema, read.entities), (text(SCHEMA, SCHEMA_TEXT), text(ENTITIES, ENTITIES_TEXT)));
}

/// As Kubernetes mounts a ConfigMap: every name is a link through `..data`, which is a link to a directory.
fn mount(directory: &Path, policies: &str, stamp: &str) {
    let real = directory.join(format!("..{stamp}"));
    fs::create_dir(&real).unwrap();
    write(&real, policies);
    symlink(real.file_name().unwrap(), directory.join("..new")).unwrap();
    fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
    for name in [SCHEMA, ENTITIES, "test.cedar"] {
        let link = directory.join(name);
        if !link.exists() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
}

#[test]
fn links_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), ANN_READS_HERS, "2026_11_25");
    assert_eq!(Texts::settled(directory.path()), Ok(texts(ANN_READS_HERS)));
}

#[test]
fn what_can_not_be_read_is_refused_with_its_path() {
    type Edit = fn(&Path);
    let edits: [(Edit, &str); 14] = [
        (|path| fs::remove_dir_all(path).unwrap(), "is not there"),
        (|path| fs::remove_file(path.join("test.cedar")).unwrap(), "has no *.cedar file"),
        (|path| fs::remove_file(path.join(SCHEMA)).unwrap(), "triseal.cedarschema: is not there"),
        (|path| fs::remove_file(path.join(ENTITIES)).unwrap(), "entities.json: is not there"),
        (|path| symlink("nowhere", path.join("x.cedar")).unwrap(), "x.cedar: is not there"),
        (|path| fs::create_dir(path.join("x.cedar")).unwrap(), "x.cedar: is no file"),
        (
            |path| assert!(Command::new("mkfifo").arg(path.join("x.cedar")).status().unwrap().success()),
            "x.cedar: is no file",
        ),
        (|path| fs::write(path.join("x.cedar"), b"\xff").unwrap(), "x.cedar: is not UTF-8"),
        (
            |path| fs::write(path.join("x.cedar"), vec![b' '; (1 << 20) + 1]).unwrap(),
            "x.cedar: is longer than 1048576 octets",
        ),
        (
            |path| (0..64).for_each(|number| fs::write(path.join(format!("{number}.cedar")), "").unwrap()),
            "has more than 64 *.cedar files",
        ),
        (
            |path| (0..1_000).for_each(|number| fs::write(path.join(format!("{number}")), "").unwrap()),
            "has more than 1000 names in it",
        ),
        (|path| open_to_all(path), "may be changed by everyone (mode 0707)"),
        (|path| open_to_all(&path.join("test.cedar")), "test.cedar: may be changed by everyone (mode 0707)"),
        (|path| open_to_all(&path.join(ENTITIES)), "entities.json: may be changed by everyone (mode 0707)"),
    ];
    for (edit, wanted) in edits {
        let directory = directory();
        let path = directory.path().join("policy");
        fs::create_dir(&path).unwrap();
        write(&path, EVERYTHING);
        Texts::settled(&path).unwrap();
        edit(&path);
        let told = Texts::settled(&path).unwrap_err().to_string();
        assert!(told.starts_with(path.to_str().unwrap()) && told.contains(wanted), "{told}");
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o707)).unwrap();
}

// --- changes. Time is paused: it moves when nothing else can, and stands while a directory is read ---

/// A policy whose directory is watched, and what it counts.
struct Watched {
    directory: TempDir,
    access: Arc<Access>,
    counted: PrometheusHandle,
    _recording: ::metrics::LocalRecorderGuard<'static>,
}

impl Watched {
    /// Starts on [`ANN_READS_HERS`]. It is read again after two, four, six … seconds.
    async fn start() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let counted = recorder.handle();
        let recording = ::metrics::set_default_local_recorder(recorder);
        let directory = directory();
        let access = Access::start(directory.path()).await.unwrap();
        Self { directory, access, counted, _recording: recording }
    }

    fn write(&self, policies: &str) {
        write(self.directory.path(), policies);
    }

    /// The generation, and whether Ann may read hers, and Bob's.
    fn now(&self) -> (u64, bool, bool) {
        let may = |id: &str| self.access.permit(&caller("ann"), read(id)).is_ok();
        (self.access.in_force().generation, may("ann.crm"), may("bob.crm"))
    }

    fn reloads(&self, outcome: &str) -> u64 {
        let label = format!("triseal_policy_reloads_total{{outcome=\"{outcome}\"}} ");
        let rendered = self.counted.render();
        rendered.lines().find_map(|line| line.strip_prefix(&label)).map_or(0, |count| count.parse().unwrap())
    }
}

async fn seconds(number: u64) {
    sleep(Duration::from_secs(number)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_taken_when_two_readings_agree() {
    let watched = Watched::start().await;
    assert_eq!(watched.now(), (1, true, false));
    seconds(1).await;
    watched.write(EVERYTHING);
    seconds(2).await;
    assert_eq!(watched.now(), (1, true, false), "it was read once");
    seconds(2).await;
    assert_eq!(watched.now(), (2, true, true));
    seconds(20).await;
    assert_eq!(watched.now(), (2, true, true), "what did not change is not taken again");
    assert_eq!((watched.reloads("taken"), watched.reloads("refused")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_bad_edit_leaves_the_last_good_set_and_is_counted_once() {
    let watched = Watched::start().await;
    seconds(1).await;
    for (refused, bad) in [(1, "permit (principal"), (2, "permit (principal, action, resource);")] {
        watched.write(bad);
        seconds(20).await;
        assert_eq!(watched.now(), (1, true, false));
        assert_eq!((watched.reloads("taken"), watched.reloads("refused")), (0, refused), "looked at once");
    }
    fs::remove_file(watched.directory.path().join(ENTITIES)).unwrap();
    seconds(20).await;
    assert_eq!((watched.now(), watched.reloads("refused")), ((1, true, false), 3));
    fs::rename(watched.directory.path(), watched.directory.path().with_extension("away")).unwrap();
    seconds(20).await;
    assert_eq!((watched.now(), watched.reloads("refused")), ((1, true, false), 4));
    fs::rename(watched.directory.path().with_extension("away"), watched.directory.path()).unwrap();

    watched.write(EVERYTHING);
    seconds(20).await;
    assert_eq!((watched.now(), watched.reloads("taken")), ((2, true, true), 1), "and it is mended");
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_still_being_written_is_not_taken() {
    let watched = Watched::start().await;
    let forbids = "@id(\"not\")\nforbid (principal, action, resource) when { resource == Customer::\"acme\" };\n";
    let extra = watched.directory.path().join("forbids.cedar");
    seconds(1).await;
    // Good by itself, and not what is meant.
    watched.write(EVERYTHING);
    seconds(2).await;
    fs::write(&extra, forbids).unwrap();
    for _ in 0..20 {
        assert_ne!(watched.now(), (2, true, true), "half of the new set was in force");
        seconds(1).await;
    }
    assert_eq!(watched.now(), (2, false, false));
    assert_eq!((watched.reloads("taken"), watched.reloads("refused")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_exchanged_link_is_a_change() {
    let watched = Watched::start().await;
    for name in [SCHEMA, ENTITIES, "test.cedar"] {
        fs::remove_file(watched.directory.path().join(name)).unwrap();
    }
    mount(watched.directory.path(), ANN_READS_HERS, "1");
    seconds(9).await;
    assert_eq!(watched.now(), (1, true, false), "the same texts from elsewhere");
    mount(watched.directory.path(), EVERYTHING, "2");
    seconds(9).await;
    assert_eq!(watched.now(), (2, true, true));
}

#[tokio::test(start_paused = true)]
async fn there_is_no_start_without_a_good_set() {
    let directory = directory();
    assert!(Access::start(directory.path()).await.is_ok());
    write(directory.path(), "permit (principal");
    assert!(Access::start(directory.path()).await.is_err());
    assert!(Access::start(&directory.path().join("nowhere")).await.is_err());
}
