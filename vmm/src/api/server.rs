//! Serves the control socket: many clients by turns, one action after the other.
//!
//! One thread has the sockets and never waits for a client; another does the actions, which may take as long as
//! the host does. Whatever clients do, there are no more of them than [`Limits`] says, and each has one line of
//! input and one answer.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::action::{Action, ActionError};
use super::client::{Client, Said};
use super::socket::Socket;

/// How much clients may have, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At a time.
    pub clients: usize,
    /// To end a line that was begun, or to take an answer.
    pub patience: Duration,
    /// Until an action is answered, done or not.
    pub action: Duration,
    /// Without a look at who wants in, when the host has no more files for them.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 16,
            patience: Duration::from_secs(10),
            action: Duration::from_secs(5),
            pause: Duration::from_secs(1),
        }
    }
}

/// What does actions.
pub type Act<'a> = &'a (dyn Fn(Action) -> Result<String, ActionError> + Sync);

/// A server that runs. It stops when this is dropped: then nobody is let in or heard any more, and its threads end
/// with the action that they are at.
pub struct Serving(Arc<OwnedFd>);

impl Drop for Serving {
    fn drop(&mut self) {
        signal(&self.0);
    }
}

/// Serves `socket` on threads of `scope`.
///
/// # Errors
/// If the host gives no thread or no event.
pub fn serve<'scope>(
    scope: &'scope Scope<'scope, '_>,
    socket: Socket,
    limits: Limits,
    act: Act<'scope>,
) -> io::Result<Serving> {
    let (orders, ordered) = sync_channel(1);
    let (results, resulted) = sync_channel(1);
    let stop = Arc::new(event()?);
    let done = Arc::new(event()?);
    let serving = Serving(Arc::clone(&stop));
    let ring = Arc::clone(&done);
    thread::Builder::new().name("actions".into()).spawn_scoped(scope, move || {
        do_all(&ordered, act, |result| {
            // Nobody waits for it when the server has stopped.
            let _stopped = results.send(result);
            signal(&ring);
        });
    })?;
    let server = Server {
        act,
        socket,
        limits,
        clients: BTreeMap::new(),
        next: 0,
        waiting: Vec::new(),
        doing: None,
        orders,
        resulted,
        closed_until: None,
    };
    thread::Builder::new().name("control".into()).spawn_scoped(scope, move || server.run(&stop, &done))?;
    Ok(serving)
}

fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn signal(event: &OwnedFd) {
    // Full means it is signalled already.
    let _full = rustix::io::write(event, &1u64.to_ne_bytes());
}

type Answer = Result<String, ActionError>;

fn do_all(ordered: &Receiver<Action>, act: Act<'_>, tell: impl Fn(Answer)) {
    while let Ok(action) = ordered.recv() {
        tell(act(action));
    }
}

struct Server<'a> {
    act: Act<'a>,
    socket: Socket,
    limits: Limits,
    clients: BTreeMap<u64, Client>,
    next: u64,
    /// Asked for and not begun, in their order.
    waiting: Vec<Asked>,
    doing: Option<Doing>,
    orders: SyncSender<Action>,
    resulted: Receiver<Answer>,
    /// Nobody is let in before.
    closed_until: Option<Instant>,
}

struct Asked {
    client: u64,
    action: Action,
    until: Instant,
}

struct Doing {
    what: String,
    /// Who waits for it until when. `None`: was told that it takes long.
    client: Option<(u64, Instant)>,
}

/// What a wait has found.
#[derive(Default)]
struct Found {
    stop: bool,
    done: bool,
    knock: bool,
    clients: Vec<(u64, PollFlags)>,
}

impl Server<'_> {
    fn run(mut self, stop: &OwnedFd, done: &OwnedFd) {
        loop {
            let found = match self.wait(stop, done) {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!("the control socket cannot be served any more: {error}");
                    return;
                }
            };
            if found.stop {
                return;
            }
            if found.done {
                // Empty means that it was looked at before.
                let _empty = rustix::io::read(done, &mut [0; 8]);
                self.finish();
            }
            for (number, flags) in found.clients {
                if let Some(client) = self.clients.get_mut(&number) {
                    client.serve(flags);
                }
            }
            if found.knock {
                self.let_in();
            }
            self.expire(Instant::now());
            self.hear();
            self.begin();
            self.clients.retain(|_, client| !client.is_over());
        }
    }

    fn wait(&self, stop: &OwnedFd, done: &OwnedFd) -> io::Result<Found> {
        let clients = self.clients.iter().filter_map(|(number, client)| Some((*number, client.interest()?)));
        let (numbers, interests): (Vec<u64>, Vec<PollFd<'_>>) = clients.unzip();
        let mut fds = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(done, PollFlags::IN)];
        let now = Instant::now();
        let open = self.closed_until.is_none_or(|until| until <= now);
        let knock = if open { PollFlags::IN } else { PollFlags::empty() };
        fds.push(PollFd::from_borrowed_fd(self.socket.listener().as_fd(), knock));
        fds.extend(interests);
        let timeout = self.soonest(now).map(|at| at.saturating_duration_since(now));
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(Found::default()),
            Err(error) => return Err(error.into()),
        }
        let mut flags = fds.iter().map(PollFd::revents);
        let mut is_set = || flags.next().is_some_and(|flags| !flags.is_empty());
        let (stop, done, knock) = (is_set(), is_set(), is_set());
        let clients = numbers.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect();
        Ok(Found { stop, done, knock: knock && open, clients })
    }

    /// When something has to be done even if nothing happens.
    fn soonest(&self, now: Instant) -> Option<Instant> {
        let clients = self.clients.values().filter_map(|client| client.deadline(self.limits.patience));
        let waiting = self.waiting.iter().map(|asked| asked.until);
        let doing = self.doing.iter().filter_map(|doing| doing.client).map(|(_, until)| until);
        let closed = self.closed_until.filter(|until| *until > now);
        clients.chain(waiting).chain(doing).chain(closed).min()
    }

    fn let_in(&mut self) {
        // Not for ever: those who are in have their turn.
        for _ in 0..self.limits.clients {
            match self.socket.listener().accept() {
                Ok((stream, _)) => self.welcome(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                // Who knocks stays at the door, so this would come again at once.
                Err(error) => {
                    let pause = self.limits.pause;
                    tracing::warn!("nobody is let in for {} ms: {error}", pause.as_millis());
                    self.closed_until = Instant::now().checked_add(pause);
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, stream: UnixStream) {
        if let Err(error) = stream.set_nonblocking(true) {
            return tracing::debug!("a client is turned away: {error}");
        }
        let mut client = Client::new(stream);
        if self.clients.len() >= self.limits.clients && !self.make_room() {
            let most = self.limits.clients;
            return client
                .dismiss(&format!("error: {most} clients are at it, and there are no more at a time"));
        }
        self.clients.insert(self.next, client);
        self.next += 1;
    }

    /// Sends the one away who has been asking nothing for longest.
    fn make_room(&mut self) -> bool {
        let idle = self.clients.iter().filter_map(|(number, client)| Some((client.idle()?, *number)));
        let Some((_, number)) = idle.min() else { return false };
        if let Some(mut client) = self.clients.remove(&number) {
            client.dismiss("error: another client wants this place");
        }
        true
    }

    /// Takes every request that is whole. What changes nothing is answered at once, whatever else is under way.
    fn hear(&mut self) {
        for (number, client) in &mut self.clients {
            while let Some(said) = client.next() {
                let read = match said {
                    Said::Wrong(what) => {
                        client.dismiss(&format!("error: {what}"));
                        continue;
                    }
                    Said::Request(line) => Action::read(&line),
                };
                match read {
                    Ok(action) if action.changes() => {
                        let until = Instant::now() + self.limits.action;
                        self.waiting.push(Asked { client: *number, action, until });
                    }
                    Ok(action) => client.answer(&text_of((self.act)(action))),
                    Err(error) => client.answer(&error.answer()),
                }
            }
        }
    }

    /// The next action, if none is under way.
    fn begin(&mut self) {
        if self.doing.is_some() || self.waiting.is_empty() {
            return;
        }
        let Asked { client, action, until } = self.waiting.remove(0);
        self.doing = Some(Doing { what: action.name(), client: Some((client, until)) });
        // The other thread is there for as long as this one, and waits for this.
        let _never_full = self.orders.try_send(action);
    }

    fn finish(&mut self) {
        let Ok(result) = self.resulted.try_recv() else { return };
        let Some(Doing { client, .. }) = self.doing.take() else { return };
        let client = client.and_then(|(number, _)| self.clients.get_mut(&number));
        if let Some(client) = client {
            client.answer(&text_of(result));
        }
    }

    /// Ends waits that have taken too long.
    fn expire(&mut self, now: Instant) {
        let (limit, patience) = (self.limits.action, self.limits.patience);
        if let Some(doing) = &mut self.doing {
            if let Some((number, _)) = doing.client.take_if(|(_, until)| *until <= now)
                && let Some(client) = self.clients.get_mut(&number)
            {
                client.answer(&ActionError::GoesOn { what: doing.what.clone(), limit }.answer());
            }
            for asked in self.waiting.extract_if(.., |asked| asked.until <= now) {
                let (what, before) = (asked.action.name(), doing.what.clone());
                if let Some(client) = self.clients.get_mut(&asked.client) {
                    client.answer(&ActionError::NotBegun { what, before, limit }.answer());
                }
            }
        }
        self.clients.retain(|_, client| client.deadline(patience).is_none_or(|deadline| deadline > now));
    }
}

fn text_of(answer: Answer) -> String {
    match answer {
        Ok(text) => format!("ok {text}"),
        Err(error) => error.answer(),
    }
}

#[cfg(test)]
mod tests;
