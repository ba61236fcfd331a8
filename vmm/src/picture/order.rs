//! The whole address space from the bottom up: what is placed, what is free, and where the limits are.

use super::fold::Cluster;
use super::{Limit, Scene};

/// A row of the map.
pub enum Entry<'s> {
    Cluster(Cluster<'s>, Vec<Cut<'s>>),
    Gap { size: u64, out_of_reach: bool },
    Limit(Cut<'s>),
}

/// All limits at one address.
#[derive(Clone)]
pub struct Cut<'s> {
    pub address: u64,
    pub limits: Vec<&'s Limit>,
}

/// The rows of the map, lowest first.
pub fn entries<'s>(scene: &'s Scene, placed: Vec<Cluster<'s>>) -> Vec<Entry<'s>> {
    let mut cuts = cuts(&scene.limits).into_iter().peekable();
    let roof = scene.limits.iter().filter(|limit| limit.binding).map(|limit| limit.address).min();
    let mut entries = Vec::new();
    // The lowest address that is not in a row yet.
    let mut free = 0;
    let gap = |entries: &mut Vec<Entry<'s>>, free: u64, end: u64| {
        if end > free {
            entries
                .push(Entry::Gap { size: end - free, out_of_reach: roof.is_some_and(|roof| roof <= free) });
        }
    };
    for cluster in placed {
        while let Some(cut) = cuts.next_if(|cut| cut.address <= cluster.first()) {
            gap(&mut entries, free, cut.address);
            free = free.max(cut.address);
            entries.push(Entry::Limit(cut));
        }
        gap(&mut entries, free, cluster.first());
        free = free.max(cluster.last().saturating_add(1));
        let within = std::iter::from_fn(|| cuts.next_if(|cut| cut.address <= cluster.last())).collect();
        entries.push(Entry::Cluster(cluster, within));
    }
    for cut in cuts {
        gap(&mut entries, free, cut.address);
        free = free.max(cut.address);
        entries.push(Entry::Limit(cut));
    }
    entries
}

fn cuts(limits: &[Limit]) -> Vec<Cut<'_>> {
    let mut limits: Vec<&Limit> = limits.iter().collect();
    limits.sort_by_key(|limit| limit.address);
    let same = limits.chunk_by(|a, b| a.address == b.address);
    same.map(|limits| Cut { address: limits[0].address, limits: limits.to_vec() }).collect()
}
