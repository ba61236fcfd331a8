//! What can be asked of a running machine, who does it, and the socket on which it is asked.

mod action;
mod client;
mod controller;
mod server;
mod socket;

pub use controller::Controller;
pub use server::{Limits, serve};
pub use socket::{Socket, SocketError};
