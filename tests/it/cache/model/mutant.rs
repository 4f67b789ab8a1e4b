//! The rules, each broken by hand in turn: a model that does not notice proves nothing.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    // What is published, and how.
    FenceBeforeRows,
    FenceIsFlushPosition,
    ThroughIsTheFence,
    AdvanceBeforePublish,
    LossOfRowsUnnoticed,
    // What an instance makes of what it hears.
    ChainUnchecked,
    ChainByOrder,
    LateMessageIgnored,
    HardTakenForSoft,
    EvictedFencesForgotten,
    LsnsAlone,
    FreshCursorUnnoticed,
    LearntTooEarly,
    PurgeWithoutFenceForgotten,
    StartFenceBeforeSnapshot,
    // What a fill does.
    StampAtTheEnd,
    ReadAnywhere,
    OldPrimaryRead,
    StandbyBelievedByName,
    LateTagsDropped,
    LateTagsUnchecked,
    LateTagsByReadsAlone,
    OvertakenFillJoined,
    OldFillReplacesNewer,
    // What counts as fresh.
    StampVouchesForReads,
    LocalStampsShared,
    SharedBeforeCaughtUp,
    OwnByStampAlone,
}

/// All of them.
pub const MUTANTS: [Mutant; 28] = [
    Mutant::FenceBeforeRows,
    Mutant::FenceIsFlushPosition,
    Mutant::ThroughIsTheFence,
    Mutant::AdvanceBeforePublish,
    Mutant::LossOfRowsUnnoticed,
    Mutant::ChainUnchecked,
    Mutant::ChainByOrder,
    Mutant::LateMessageIgnored,
    Mutant::HardTakenForSoft,
    Mutant::EvictedFencesForgotten,
    Mutant::LsnsAlone,
    Mutant::FreshCursorUnnoticed,
    Mutant::LearntTooEarly,
    Mutant::PurgeWithoutFenceForgotten,
    Mutant::StartFenceBeforeSnapshot,
    Mutant::StampAtTheEnd,
    Mutant::ReadAnywhere,
    Mutant::OldPrimaryRead,
    Mutant::StandbyBelievedByName,
    Mutant::LateTagsDropped,
    Mutant::LateTagsUnchecked,
    Mutant::LateTagsByReadsAlone,
    Mutant::OvertakenFillJoined,
    Mutant::OldFillReplacesNewer,
    Mutant::StampVouchesForReads,
    Mutant::LocalStampsShared,
    Mutant::SharedBeforeCaughtUp,
    Mutant::OwnByStampAlone,
];
