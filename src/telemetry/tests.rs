use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::{info, warn};

use super::*;

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What is logged by `work`.
fn logged(filter: &str, work: impl Future<Output = ()>) -> Vec<Value> {
    let (kept, runtime) = (Kept::default(), tokio::runtime::Builder::new_current_thread().build().unwrap());
    let writer = kept.clone();
    let subscriber = subscriber(EnvFilter::builder().parse(filter).unwrap(), move || writer.clone());
    tracing::subscriber::with_default(subscriber, || runtime.block_on(work));
    kept.lines()
}

#[test]
fn every_line_of_a_call_names_it_and_no_other_does() {
    const AWKWARD: &str = "\"},{\"level\":\"\\";
    let call = |id: &'static str| {
        within(RequestId::parse(id).unwrap(), None, async move {
            info!(customer = "acme", "first");
            tokio::task::yield_now().await;
            warn!(number = 7, "second");
        })
    };
    // At `warn` there is no span that could carry the id.
    for (filter, each) in [("info", 2), ("warn", 1)] {
        let lines = logged(filter, async {
            info!("before");
            warn!("between");
            tokio::join!(call("one"), call(AWKWARD));
        });
        let with = |id: &str| lines.iter().filter(|line| line["request_id"] == id).count();
        assert_eq!((with("one"), with(AWKWARD)), (each, each), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.get("request_id").is_none()).count(), each, "{lines:?}");
        let second = lines.iter().find(|line| line["message"] == "second").unwrap();
        assert!(second["number"] == 7 && second["level"] == "WARN" && second["timestamp"].is_string(), "{second}");
    }
}

#[test]
fn a_panic_is_told_by_its_place_alone() {
    let lines = logged("error", async {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let ended = std::panic::catch_unwind(|| panic!("planted"));
        std::panic::set_hook(before);
        assert!(ended.is_err());
    });
    // Another test of this process may panic on purpose meanwhile; it is not logged here.
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0]["place"].as_str().unwrap().starts_with("src/telemetry/tests.rs:"), "{lines:?}");
    assert!(!lines[0].to_string().contains("planted"), "{lines:?}");
}
