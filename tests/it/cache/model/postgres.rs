//! A cluster as far as the protocol sees it: commits whose order on the log is not the order in which they become visible,
//! replicas that lag, promotions that lose a tail, and old primaries that live on.

use mainstay::position::{Lsn, Position, SystemId, Timeline};

/// A set of commits, one bit each.
pub type Set = u64;

/// Commits that a run may make.
pub const COMMITS_MAX: usize = 48;

pub fn at(timeline: u32, lsn: u64) -> Position {
    Position { system: SystemId(1), timeline: Timeline(timeline), lsn: Lsn(lsn) }
}

pub fn bit(commit: usize) -> Set {
    1 << commit
}

pub fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..COMMITS_MAX).filter(move |commit| set & bit(*commit) != 0)
}

/// Where the primary of a timeline stands among the primaries.
fn index_of(timeline: u32) -> usize {
    usize::try_from(timeline).unwrap() - 1
}

/// The timeline of a primary.
pub fn timeline_of(primary: usize) -> u32 {
    u32::try_from(primary).unwrap() + 1
}

/// What a transaction tells of in the change feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A row changed, or an operator purged its tag softly.
    Soft,
    /// An operator purged the row's tag for good.
    Hard,
    /// Everything was purged softly.
    Everything,
}

#[derive(Clone, Debug)]
pub struct Commit {
    /// The rows that it changes, one bit each.
    pub rows: u8,
    pub kind: Kind,
    /// Where it stands on the log, once it does.
    pub at: Option<Position>,
    /// What is remembered of a purge for good.
    pub fence: Option<Position>,
    pub is_sync: bool,
}

/// What the database remembers for those who publish. Nothing was published from a cursor without `last`.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub cursor: Set,
    pub last: Option<Position>,
}

#[derive(Clone, Debug)]
pub struct Primary {
    pub timeline: u32,
    /// Where its timeline left the one before.
    pub fork: u64,
    pub inserted: u64,
    pub flushed: u64,
    pub visible: Set,
    pub open: Set,
    /// On the log and not yet visible: these hold the commit lock.
    pub committing: Set,
    pub pruned: Set,
    pub stored: Option<Stored>,
}

#[derive(Clone, Copy, Debug)]
pub struct Replica {
    pub timeline: u32,
    pub replayed: u64,
}

#[derive(Clone, Debug)]
pub struct Postgres {
    pub commits: Vec<Commit>,
    /// By timeline; the last one is the true one.
    pub primaries: Vec<Primary>,
    pub replicas: Vec<Replica>,
}

impl Primary {
    fn new(timeline: u32, fork: u64, visible: Set) -> Self {
        let (inserted, flushed) = (fork, fork);
        Self { timeline, fork, inserted, flushed, visible, open: 0, committing: 0, pruned: 0, stored: None }
    }

    /// A logical message with a synchronous commit: all before it is on disk.
    pub fn emit(&mut self) -> Position {
        self.inserted += 2;
        self.flushed = self.inserted;
        at(self.timeline, self.inserted)
    }
}

impl Postgres {
    pub fn new(replicas: usize) -> Self {
        let replica = Replica { timeline: 1, replayed: 2 };
        Self { commits: Vec::new(), primaries: vec![Primary::new(1, 2, 0)], replicas: vec![replica; replicas] }
    }

    pub fn highest(&self) -> usize {
        self.primaries.len() - 1
    }

    /// What the log of a timeline has told up to a position, visible or not.
    pub fn log(&self, timeline: u32, lsn: u64) -> Set {
        let is_in = |commit: &Commit| {
            let Some(at) = commit.at.filter(|at| at.timeline.0 <= timeline) else { return false };
            let forks = (at.timeline.0..timeline).map(|before| self.primaries[index_of(before + 1)].fork);
            at.lsn.0 <= forks.fold(lsn, u64::min)
        };
        self.commits.iter().enumerate().filter(|(_, commit)| is_in(commit)).fold(0, |set, (index, _)| set | bit(index))
    }

    /// What of all that was ever committed is still there on a timeline.
    pub fn survivors(&self, timeline: u32) -> Set {
        self.log(timeline, u64::MAX)
    }

    /// All commits that touch any of these rows.
    pub fn touching(&self, rows: u8) -> Set {
        let touch = |(_, commit): &(usize, &Commit)| commit.rows & rows != 0;
        self.commits.iter().enumerate().filter(touch).fold(0, |set, (index, _)| set | bit(index))
    }

    pub fn begin(&mut self, primary: usize, rows: u8, kind: Kind, is_sync: bool) -> bool {
        if self.commits.len() >= COMMITS_MAX {
            return false;
        }
        self.primaries[primary].open |= bit(self.commits.len());
        self.commits.push(Commit { rows, kind, at: None, fence: None, is_sync });
        true
    }

    /// The commit record is written. It is not visible yet, and not on disk.
    pub fn log_commit(&mut self, primary: usize, which: usize) -> bool {
        let primary = &mut self.primaries[primary];
        let count = members(primary.open).count();
        let Some(commit) = members(primary.open).nth(which % count.max(1)) else { return false };
        primary.open &= !bit(commit);
        primary.committing |= bit(commit);
        primary.inserted += 2;
        self.commits[commit].at = Some(at(primary.timeline, primary.inserted));
        true
    }

    pub fn show_commit(&mut self, primary: usize, which: usize) -> bool {
        let primary = &mut self.primaries[primary];
        let count = members(primary.committing).count();
        let Some(index) = members(primary.committing).nth(which % count.max(1)) else { return false };
        let commit = &mut self.commits[index];
        if commit.is_sync {
            primary.flushed = primary.flushed.max(commit.at.unwrap().lsn.0);
        }
        primary.committing &= !bit(index);
        primary.visible |= bit(index);
        if commit.kind == Kind::Hard {
            commit.fence = Some(primary.emit());
        }
        true
    }

    /// A replica replays a piece of the log, or goes over to the next timeline where it has not passed the fork.
    pub fn replay(&mut self, replica: usize, bytes: u64) -> bool {
        let Replica { timeline, replayed } = self.replicas[replica];
        let next = self.primaries.get(index_of(timeline + 1)).filter(|next| replayed <= next.fork);
        if let Some(next) = next.filter(|next| bytes > 4 || next.fork == replayed) {
            self.replicas[replica].timeline = next.timeline;
            return true;
        }
        let end = self.primaries[index_of(timeline)].flushed;
        let replica = &mut self.replicas[replica];
        let before = replica.replayed;
        replica.replayed = end.min(before + bytes);
        replica.replayed > before
    }

    /// A replica of the newest timeline becomes its successor; what it had not replayed is lost.
    pub fn promote(&mut self, replica: usize) -> bool {
        let Replica { timeline, replayed } = self.replicas[replica];
        if index_of(timeline) != self.highest() || timeline >= 3 || replayed < self.primaries[self.highest()].fork {
            return false;
        }
        self.primaries.push(Primary::new(timeline + 1, replayed, self.log(timeline, replayed)));
        self.replicas[replica].timeline = timeline + 1;
        true
    }

    /// What is remembered for those who publish goes, or one of another region takes over, for whom nothing is.
    pub fn forget(&mut self, primary: usize) -> bool {
        self.primaries[primary].stored.take().is_some()
    }

    /// Rows of the feed that the one who publishes has behind him go.
    pub fn prune(&mut self, primary: usize) -> bool {
        let primary = &mut self.primaries[primary];
        let Some(stored) = primary.stored else { return false };
        let before = primary.pruned;
        primary.pruned |= stored.cursor;
        primary.pruned != before
    }
}
