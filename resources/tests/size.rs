//! Sizes are read and written without loss.

use ambit_resources::{human_size, parse_size};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_size_that_was_written_is_read_back(bytes in any::<u64>(), shift in 0..64_u32) {
        let bytes = bytes >> shift << shift.min(50);

        // The program has no suffix past T, and no need of one.
        let text = human_size(bytes);
        if !text.ends_with("PiB") && !text.ends_with("EiB") {
            prop_assert_eq!(parse_size(&text), Ok(bytes));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,24}", number in any::<u64>(), suffix in "[ KMGTkmgtiIbB]{0,4}") {
        let _ = parse_size(&text);
        let _ = parse_size(&format!("{number}{suffix}"));
    }
}
