//! A server in a process of its own, and what the system says about it: when it was ready, its CPU time, its memory.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// What /proc counts in. 100 for user space on every Linux that Rust runs on.
const TICKS_A_SECOND: f64 = 100.0;

/// Is killed when dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    /// From before it was started until it said that it serves.
    pub ready_after: Duration,
}

impl Process {
    /// Starts a server and waits for the line in which it says where it serves. `output` takes the pipe with that line.
    pub fn start<P: Read + Send + 'static>(
        mut command: Command,
        output: impl Fn(&mut Child) -> Option<P>,
        address: impl Fn(&str) -> Option<SocketAddr>,
    ) -> Self {
        let began = Instant::now();
        let mut child = command.spawn().expect("the server starts");
        let mut lines = BufReader::new(output(&mut child).expect("its output is a pipe")).lines();
        let mut said = String::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the server ended before it served: {said}") };
            match address(&line) {
                Some(address) => break address,
                None => said += &line,
            }
        };
        let ready_after = began.elapsed();
        // A full pipe would hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, ready_after }
    }

    /// User and system time of the whole process, in seconds.
    pub fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        // The second field is a name in parentheses, which may contain anything. utime and stime are the 14th and 15th.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).expect("a stat");
        let ticks: f64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
        ticks / TICKS_A_SECOND
    }

    /// Resident memory, in octets.
    pub fn resident(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS");
        let kibibytes = line.trim().strip_suffix(" kB").and_then(|number| number.parse::<f64>().ok());
        kibibytes.expect("a number") * 1024.0
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> ExitStatus {
        let process = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &process]).status().expect("kill runs");
        assert!(sent.success(), "SIGTERM was not sent");
        self.child.wait().expect("it can be waited for")
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("Linux, and the server runs")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
