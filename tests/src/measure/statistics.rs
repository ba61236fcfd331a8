//! Numbers out of several runs.

use std::time::Duration;

/// The middle one; of an even count, the upper of the two.
pub fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// The median of `a[i] / b[i]`: each two ran one after the other, so that what the machine did meanwhile hit both.
pub fn median_ratio(a: &[Duration], b: &[Duration]) -> f64 {
    let mut ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_between_runs_that_were_neighbours() {
        let [a, b] = [[1, 10, 3], [2, 20, 3]].map(|list| list.map(Duration::from_millis));

        assert_eq!(median_ratio(&a, &b), 0.5);
    }
}
