//! What the kernel said to each request while a machine was built: the first refusal ends it, or all is noted.

use super::error::{KvmError, Step};

/// What becomes of the kernel's answers.
pub enum Answers {
    /// A machine is wanted: nothing goes on after a refusal.
    FirstRefusal,
    /// The answers are wanted.
    Noted(Vec<Answer>),
}

/// What the kernel said to one request.
#[derive(Debug)]
pub struct Answer {
    pub step: Step,
    pub outcome: Outcome,
}

// Not every architecture asks for all of it.
#[allow(dead_code)]
#[derive(Debug)]
pub enum Outcome {
    Granted,
    /// Taken, and then it named another value than the one it was given.
    Otherwise {
        given: u64,
        named: u64,
    },
    Refused(std::io::Error),
    /// It could not be asked, as something before was refused.
    NotAsked,
}

impl Answers {
    /// What is to be made of an `answer` to `step`. `None`: it was refused, and that is noted.
    ///
    /// # Errors
    /// [`KvmError`] for a refusal that is not noted.
    pub fn hear<T>(
        &mut self,
        step: Step,
        answer: Result<T, kvm_ioctls::Error>,
    ) -> Result<Option<T>, KvmError> {
        let (outcome, value) = match (answer, &self) {
            (Err(errno), Self::FirstRefusal) => return Err(KvmError::new(step, errno)),
            (Err(errno), Self::Noted(_)) => (Outcome::Refused(errno.into()), None),
            (Ok(value), _) => (Outcome::Granted, Some(value)),
        };
        self.note(step, outcome);
        Ok(value)
    }

    /// The same of a value that was `given`; where answers are noted, the kernel is asked for it again with
    /// `name`.
    ///
    /// # Errors
    /// As [`Answers::hear`].
    #[allow(dead_code)]
    pub fn hear_again(
        &mut self,
        step: Step,
        answer: Result<(), kvm_ioctls::Error>,
        given: u64,
        name: impl FnOnce() -> Result<u64, kvm_ioctls::Error>,
    ) -> Result<(), KvmError> {
        if answer.is_ok() && matches!(self, Self::Noted(_)) {
            // A kernel that cannot be asked has not said otherwise.
            let named = name().unwrap_or(given);
            let same = named == given;
            self.note(step, if same { Outcome::Granted } else { Outcome::Otherwise { given, named } });
            return Ok(());
        }
        self.hear(step, answer).map(|_| ())
    }

    pub fn not_asked(&mut self, step: Step) {
        self.note(step, Outcome::NotAsked);
    }

    fn note(&mut self, step: Step, outcome: Outcome) {
        if let Self::Noted(answers) = self {
            answers.push(Answer { step, outcome });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<(), kvm_ioctls::Error> {
        Err(kvm_ioctls::Error::new(libc::EINVAL))
    }

    #[test]
    fn a_machine_that_is_wanted_ends_at_the_first_refusal() {
        let error = Answers::FirstRefusal.hear(Step::CreateGic, refused()).unwrap_err();

        assert_eq!(error.to_string(), "the kernel made no GIC");
    }

    #[test]
    fn answers_that_are_wanted_go_on_after_a_refusal_and_tell_what_was_named_otherwise() {
        let mut answers = Answers::Noted(Vec::new());

        assert!(answers.hear(Step::CreateGic, refused()).unwrap().is_none());
        answers.hear_again(Step::InitGic, Ok(()), 1, || Ok(2)).unwrap();
        answers.hear_again(Step::InitGic, Ok(()), 1, || Ok(1)).unwrap();
        answers.not_asked(Step::CreateIts);

        let Answers::Noted(noted) = answers else { panic!("they were noted") };
        assert!(matches!(noted[0].outcome, Outcome::Refused(_)));
        assert!(matches!(noted[1].outcome, Outcome::Otherwise { given: 1, named: 2 }));
        assert!(matches!(noted[2].outcome, Outcome::Granted));
        assert!(matches!(noted[3].outcome, Outcome::NotAsked));
    }
}
