//! What is passed on, in its order, and by name: a server may have thousands of listeners, and each new one asks
//! whether its name is taken.

use super::Entry;
use crate::name_set::NameSet;
use std::ops::Deref;
use std::sync::Arc;

/// All of it. Names are unique.
#[derive(Debug)]
pub(super) struct Entries {
    all: Vec<Entry>,
    names: NameSet<Arc<[u8]>>,
}

impl Entries {
    pub fn with_room_for(count: usize) -> Entries {
        let names = NameSet::with_capacity_and_hasher(count, Default::default());
        Entries { all: Vec::with_capacity(count), names }
    }

    pub fn has(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }

    /// Its name is not taken.
    pub fn push(&mut self, entry: Entry) {
        self.names.insert(Arc::clone(&entry.name));
        self.all.push(entry);
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Entry> {
        if !self.names.remove(name) {
            return None;
        }
        let index = self.all.iter().position(|entry| *entry.name == *name)?;
        Some(self.all.remove(index))
    }

    /// Takes out what is not to stay.
    pub fn keep(&mut self, stays: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let (stay, go) = std::mem::take(&mut self.all).into_iter().partition(stays);
        self.all = stay;
        self.names = self.all.iter().map(|entry| Arc::clone(&entry.name)).collect();
        go
    }

    /// Not for changing names.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.all.iter_mut()
    }

    pub fn clear(&mut self) {
        self.all.clear();
        self.names.clear();
    }
}

impl Deref for Entries {
    type Target = [Entry];
    fn deref(&self) -> &[Entry] {
        &self.all
    }
}
