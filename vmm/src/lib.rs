//! The program: from what the user says to a running guest.

mod kvm;
mod output;
mod signals;
mod terminal;
mod timings;
mod vcpu;
