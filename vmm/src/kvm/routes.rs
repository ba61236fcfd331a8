//! The table that KVM keeps of what each GSI is: a pin of the interrupt controller, or a message.

use std::collections::BTreeMap;

use ambit_bus::Message;

/// GSIs are numbered below this (Linux `include/linux/kvm_host.h`, `KVM_MAX_IRQ_ROUTES`).
pub const GSIS: u32 = 4096;

/// What one GSI is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A pin of the one interrupt controller.
    Pin(u32),
    /// What the PCI function `requester` sends.
    Message { message: Message, requester: u16 },
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub gsi: u32,
    pub target: Target,
}

/// All GSIs of a machine. The kernel replaces its whole table at once, so all of it is known here.
pub struct Routes {
    // The first so many GSIs are the pins with the same numbers, as in the kernel's own first table.
    pins: u32,
    // Those above that are taken, and what they are if they are anything yet.
    messages: BTreeMap<u32, Option<Target>>,
}

impl Routes {
    /// `pins`: of the interrupt controller.
    pub fn new(pins: u32) -> Self {
        Self { pins, messages: BTreeMap::new() }
    }

    /// Takes the lowest free GSI for a message. `None` if all are taken.
    pub fn take(&mut self) -> Option<u32> {
        let taken = self.messages.keys().map(Some).chain(std::iter::repeat(None));
        let (gsi, _) = (self.pins..GSIS).zip(taken).find(|(gsi, taken)| *taken != Some(gsi))?;
        self.messages.insert(gsi, None);
        Some(gsi)
    }

    /// Frees a GSI that was taken.
    ///
    /// # Errors
    /// What `install` says; the GSI is free all the same, and no later table has it.
    pub fn give_back<E>(
        &mut self,
        gsi: u32,
        install: impl FnOnce(&[Entry]) -> Result<(), E>,
    ) -> Result<(), E> {
        let done = self.route(gsi, None, install);
        self.messages.remove(&gsi);
        done
    }

    /// Makes a GSI that was taken `target`, or nothing, and has the new table installed if it is another one.
    ///
    /// # Errors
    /// What `install` says; the table is as before then.
    pub fn route<E>(
        &mut self,
        gsi: u32,
        target: Option<Target>,
        install: impl FnOnce(&[Entry]) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = match self.messages.get_mut(&gsi) {
            Some(now) if *now != target => std::mem::replace(now, target),
            _ => return Ok(()),
        };
        install(&self.table()).inspect_err(|_| {
            self.messages.insert(gsi, before);
        })
    }

    /// Every GSI that is something, lowest first.
    fn table(&self) -> Vec<Entry> {
        let pins = (0..self.pins).map(|pin| Entry { gsi: pin, target: Target::Pin(pin) });
        let messages =
            self.messages.iter().filter_map(|(gsi, target)| Some(Entry { gsi: *gsi, target: (*target)? }));
        pins.chain(messages).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn to(data: u32) -> Option<Target> {
        let message = Message { address: 0x808_0040, data };
        Some(Target::Message { message, requester: 8 })
    }

    /// The table that is installed for this, if one is.
    fn installed(routes: &mut Routes, gsi: u32, target: Option<Target>) -> Option<Vec<Entry>> {
        let mut seen = None;
        let install = |table: &[Entry]| {
            seen = Some(table.to_vec());
            Ok::<(), Infallible>(())
        };
        let Ok(()) = routes.route(gsi, target, install);
        seen
    }

    fn table(pins: u32, messages: &[(u32, Option<Target>)]) -> Option<Vec<Entry>> {
        let pins = (0..pins).map(|pin| (pin, Some(Target::Pin(pin))));
        let all = pins.chain(messages.iter().copied());
        Some(all.map(|(gsi, target)| Entry { gsi, target: target.unwrap() }).collect())
    }

    #[test]
    fn every_table_has_all_pins_whatever_messages_come_and_go() {
        let mut routes = Routes::new(32);
        let (a, b) = (routes.take().unwrap(), routes.take().unwrap());

        let tables = [
            installed(&mut routes, b, to(2)),
            installed(&mut routes, a, to(1)),
            installed(&mut routes, b, to(3)),
            installed(&mut routes, a, None),
            installed(&mut routes, b, None),
        ];

        assert_eq!((a, b), (32, 33));
        assert_eq!(
            tables,
            [
                table(32, &[(33, to(2))]),
                table(32, &[(32, to(1)), (33, to(2))]),
                table(32, &[(32, to(1)), (33, to(3))]),
                table(32, &[(33, to(3))]),
                table(32, &[]),
            ]
        );
    }

    #[test]
    fn a_table_that_is_the_same_is_not_installed_again() {
        let mut routes = Routes::new(32);
        let gsi = routes.take().unwrap();
        installed(&mut routes, gsi, to(1));

        assert_eq!(installed(&mut routes, gsi, to(1)), None);
        assert_eq!(installed(&mut Routes::new(32), gsi, to(1)), None, "nobody took it");
    }

    #[test]
    fn a_table_that_is_refused_leaves_the_one_before() {
        let mut routes = Routes::new(32);
        let (a, b) = (routes.take().unwrap(), routes.take().unwrap());
        installed(&mut routes, a, to(1));

        let refused =
            [(a, to(9)), (b, to(2)), (a, None)].map(|(gsi, target)| routes.route(gsi, target, |_| Err(7)));

        assert_eq!(refused, [Err(7); 3]);
        assert_eq!(installed(&mut routes, a, to(1)), None);
        assert_eq!(installed(&mut routes, b, to(3)), table(32, &[(32, to(1)), (33, to(3))]));
    }

    #[test]
    fn a_gsi_that_is_given_back_is_out_of_the_table_and_taken_again() {
        let mut routes = Routes::new(32);
        let (a, b) = (routes.take().unwrap(), routes.take().unwrap());
        installed(&mut routes, a, to(1));
        let mut seen = None;

        let Ok(()) = routes.give_back(a, |table| {
            seen = Some(table.to_vec());
            Ok::<(), Infallible>(())
        });

        assert_eq!(seen, table(32, &[]));
        assert_eq!([routes.take(), routes.take()], [Some(a), Some(b + 1)]);
    }

    #[test]
    fn a_gsi_whose_end_is_refused_is_in_no_later_table() {
        let mut routes = Routes::new(32);
        let (a, b) = (routes.take().unwrap(), routes.take().unwrap());
        installed(&mut routes, a, to(1));

        let refused = routes.give_back(a, |_| Err(7));

        assert_eq!(refused, Err(7));
        assert_eq!(installed(&mut routes, b, to(2)), table(32, &[(33, to(2))]));
    }

    #[test]
    fn there_are_as_many_messages_as_the_kernel_has_gsis_above_the_pins() {
        let mut routes = Routes::new(960);
        let taken: Vec<u32> = std::iter::from_fn(|| routes.take()).collect();

        assert_eq!(taken, (960..4096).collect::<Vec<u32>>());
    }
}
