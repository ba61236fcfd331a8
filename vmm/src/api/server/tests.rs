use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use tempfile::TempDir;

use super::super::client::LINE;
use super::*;

/// Only what hangs takes so long.
const HANG: Duration = Duration::from_secs(60);

/// What is done here: 'unplug' of anything is told; of "slow" when the test says so.
struct Machine {
    done: Mutex<Vec<String>>,
    go_on: Mutex<Receiver<()>>,
}

impl Machine {
    fn act(&self, action: Action) -> Answer {
        match action {
            Action::Unplug(id) => {
                if id == "slow" {
                    self.go_on.lock().unwrap().recv_timeout(HANG).unwrap();
                }
                self.done.lock().unwrap().push(id.clone());
                Ok(id)
            }
            Action::Devices => Ok("x".repeat(100_000)),
            other => Ok(other.name()),
        }
    }
}

struct Bench {
    _desk: TempDir,
    path: PathBuf,
}

impl Bench {
    /// Runs `test` beside a server, and gives back what was done.
    fn run(limits: Limits, test: impl FnOnce(&Self, &Sender<()>)) -> Vec<String> {
        let desk = TempDir::new().unwrap();
        let path = desk.path().join("control");
        let socket = Socket::bind(&path).unwrap();
        let bench = Self { _desk: desk, path };
        let (go_on, wait) = channel();
        let machine = Machine { done: Mutex::default(), go_on: Mutex::new(wait) };
        let act = |action| machine.act(action);
        thread::scope(|scope| {
            let serving = serve(scope, socket, limits, &act).unwrap();
            test(&bench, &go_on);
            drop(serving);
        });
        assert!(!bench.path.exists(), "the socket is gone");
        machine.done.into_inner().unwrap()
    }

    fn connect(&self) -> Talk {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        Talk(BufReader::new(stream))
    }
}

struct Talk(BufReader<UnixStream>);

impl Talk {
    fn say(&mut self, text: &str) -> &mut Self {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
        self
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn hears_the_end(&mut self) -> bool {
        let mut rest = Vec::new();
        let ended = self.0.read_to_end(&mut rest);
        // What was sent and not read makes it a reset.
        rest.is_empty() && ended.is_ok_and(|count| count == 0)
    }
}

const PATIENT: Limits = Limits { clients: 4, patience: HANG, action: HANG, pause: Duration::from_millis(10) };

#[test]
fn each_line_has_one_answer_in_its_order() {
    let done = Bench::run(PATIENT, |bench, _| {
        let mut client = bench.connect();

        client.say("help\nunplug a\nnonsense\r\n\nunplug b\nhelp\n");

        assert_eq!(client.hear(), "ok help\n");
        assert_eq!(client.hear(), "ok a\n");
        assert!(client.hear().starts_with("error: unknown request 'nonsense'; known are "));
        assert!(client.hear().starts_with("error: an empty request; "));
        assert_eq!([client.hear(), client.hear()], ["ok b\n", "ok help\n"]);
    });

    assert_eq!(done, ["a", "b"]);
}

#[test]
fn a_client_that_says_no_more_still_hears_its_answers() {
    Bench::run(PATIENT, |bench, _| {
        let mut client = bench.connect();

        client.say("unplug a\nunplug b\n");
        client.0.get_ref().shutdown(Shutdown::Write).unwrap();

        assert_eq!([client.hear(), client.hear()], ["ok a\n", "ok b\n"]);
        assert!(client.hears_the_end());
    });
}

// F-26
#[test]
fn half_a_request_is_not_done() {
    let done = Bench::run(PATIENT, |bench, _| {
        let mut client = bench.connect();

        client.say("unplug disk1");
        client.0.get_ref().shutdown(Shutdown::Write).unwrap();

        assert_eq!(client.hear(), "error: the last request has no end of line, so it was not done\n");
        assert!(client.hears_the_end());
    });

    assert!(done.is_empty());
}

// F-26
#[test]
fn what_a_client_asked_that_has_vanished_is_done_whole_and_others_are_served() {
    let done = Bench::run(PATIENT, |bench, go_on| {
        bench.connect().say("unplug slow\n");
        // It is not heard before the first one.
        let mut other = bench.connect();
        other.say("unplug after\n");

        go_on.send(()).unwrap();

        assert_eq!(other.hear(), "ok after\n");
    });

    assert!(done == ["slow", "after"] || done == ["after", "slow"], "{done:?}");
}

// F-25
#[test]
fn a_line_without_end_is_refused_and_takes_no_memory() {
    Bench::run(PATIENT, |bench, _| {
        let mut client = bench.connect();
        let mut longest = bench.connect();

        client.say(&"x".repeat(LINE + 1));
        let word = "x".repeat(LINE - "unplug ".len());
        longest.say(&format!("unplug {word}\n"));

        assert_eq!(client.hear(), "error: a request has at most 4096 bytes\n");
        assert!(client.hears_the_end());
        assert_eq!(longest.hear(), format!("ok {word}\n"));
    });
}

// F-25
#[test]
fn a_client_that_reads_nothing_holds_up_nobody_and_is_not_heard_meanwhile() {
    Bench::run(PATIENT, |bench, _| {
        let mut deaf = bench.connect();
        deaf.0.get_ref().set_nonblocking(true).unwrap();
        // Each of these is answered with 100 kB: sooner or later nothing more is taken.
        let mut sent = 0;
        let lines = "devices\n".repeat(500);
        while let Ok(count) = deaf.0.get_mut().write(lines.as_bytes()) {
            sent += count;
            assert!(sent < 16 << 20, "the server takes requests for ever");
        }

        assert_eq!(bench.connect().say("unplug a\n").hear(), "ok a\n");
    });
}

// F-25
#[test]
fn a_client_that_never_ends_its_line_or_never_reads_is_sent_away() {
    let limits = Limits { patience: Duration::from_millis(50), ..PATIENT };
    Bench::run(limits, |bench, _| {
        let mut slow = bench.connect();
        let mut idle = bench.connect();

        slow.say("unpl");

        assert!(slow.hears_the_end());
        assert_eq!(idle.say("unplug a\n").hear(), "ok a\n");
    });
}

// F-25
#[test]
fn of_too_many_clients_the_one_that_asked_nothing_for_longest_goes() {
    Bench::run(PATIENT, |bench, _| {
        let mut clients: Vec<Talk> = (0..4).map(|_| bench.connect()).collect();
        clients.iter_mut().skip(1).for_each(|client| assert_eq!(client.say("help\n").hear(), "ok help\n"));

        let mut fifth = bench.connect();

        assert_eq!(fifth.say("help\n").hear(), "ok help\n");
        assert_eq!(clients[0].hear(), "error: another client wants this place\n");
        clients.iter_mut().skip(1).for_each(|client| assert_eq!(client.say("help\n").hear(), "ok help\n"));
    });
}

#[test]
fn a_client_is_not_sent_away_while_it_waits_and_another_one_is_told() {
    Bench::run(PATIENT, |bench, go_on| {
        let mut clients: Vec<Talk> = (0..4).map(|_| bench.connect()).collect();
        for client in &mut clients {
            client.say("unplug slow\n");
        }
        // All four have been heard when one that nothing waits for is not let in.
        let refused = "error: 4 clients are at it, and there are no more at a time\n";
        let end = Instant::now() + HANG;
        while bench.connect().hear() != refused {
            assert!(Instant::now() < end);
        }

        (0..4).for_each(|_| go_on.send(()).unwrap());

        clients.iter_mut().for_each(|client| assert_eq!(client.hear(), "ok slow\n"));
    });
}

// F-08
#[test]
fn what_takes_too_long_is_told_and_nothing_is_begun_beside_it_and_all_else_is_answered() {
    let limits = Limits { action: Duration::from_secs(1), ..PATIENT };
    let done = Bench::run(limits, |bench, go_on| {
        let (mut first, mut second) = (bench.connect(), bench.connect());

        first.say("unplug slow\n");
        assert_eq!(
            first.hear(),
            "error: 'unplug slow' has not ended within 1 s, and goes on; help: 'devices' says when it has; what it \
             waits for is a file of the host\n"
        );
        second.say("unplug other\n");
        assert_eq!(first.say("help\n").hear(), "ok help\n");
        assert_eq!(
            second.hear(),
            "error: 'unplug other' was not begun, as 'unplug slow' has not ended within 1 s\n"
        );
        go_on.send(()).unwrap();

        // It may still be at the slow one.
        let end = Instant::now() + HANG;
        while second.say("unplug last\n").hear() != "ok last\n" {
            assert!(Instant::now() < end);
        }
    });

    assert_eq!(done, ["slow", "last"]);
}

/// How often each thread of a server in this process has waited.
fn waits() -> BTreeMap<String, u64> {
    let count = |task: &std::path::Path| {
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let status = std::fs::read_to_string(task.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
        (name == "control\n").then(|| line.split_whitespace().nth(1).unwrap().parse().unwrap())
    };
    let all = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    all.filter_map(|task| Some((task.display().to_string(), count(&task)?))).collect()
}

#[test]
fn a_server_that_has_nothing_to_do_sleeps() {
    Bench::run(PATIENT, |bench, _| {
        let (mut idle, mut half) = (bench.connect(), bench.connect());
        half.say("unplug");
        drop(bench.connect());
        // The servers of other tests have less to do.
        let before = waits();
        for _ in 0..500 {
            assert_eq!(idle.say("help\n").hear(), "ok help\n");
        }
        let after = waits();
        let more = |task: &&String| after[*task] - before.get(*task).unwrap_or(&0);
        let ours = after.keys().max_by_key(more).unwrap();

        thread::sleep(Duration::from_millis(50));
        let before = waits()[ours];
        thread::sleep(Duration::from_millis(300));

        assert!(waits()[ours] - before < 5);
    });
}
