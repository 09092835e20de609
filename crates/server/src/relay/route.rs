//! Which channel a call goes to, and why not the others. A pure function of what is known.

use std::collections::BTreeSet;

use filegate_types::{ChannelId, ChannelState, PurposeName};

use super::health::{Standing, TroubleKind};

/// A channel as a choice sees it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Candidate {
    pub(crate) id: ChannelId,
    pub(crate) state: ChannelState,
    pub(crate) standing: Standing,
    /// Whether it can be called at all: it has a URL and a key that opens.
    pub(crate) usable: bool,
    /// Whether the account may use it for what can go elsewhere.
    pub(crate) allowed: bool,
    /// Whether it is another account's own.
    pub(crate) others: bool,
    pub(crate) weight: u32,
    pub(crate) priority: i32,
    /// The purposes of files that may be copied there; `None`: all.
    pub(crate) purposes: Option<Vec<PurposeName>>,
    /// Whether all files of the call are there already.
    pub(crate) has_files: bool,
    /// Whether the call was there already.
    pub(crate) tried: bool,
}

/// What a call asks of its channel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    /// Where all is that it names and that is in some places only, if it names such.
    pub(crate) pinned: Option<BTreeSet<ChannelId>>,
    /// Where a name of its is somebody else's.
    pub(crate) avoid: BTreeSet<ChannelId>,
    /// The purposes of its files.
    pub(crate) purposes: Vec<PurposeName>,
    /// Whether it asks for nothing that costs, so that a channel without money will do if it has to be that one.
    pub(crate) free: bool,
}

/// Why a channel is not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Out {
    /// What the call is about is on another channel.
    Elsewhere,
    /// A name of the call's is somebody else's there.
    Taken,
    /// The account may not use it.
    NotAllowed,
    /// It is disabled or removed.
    Disabled,
    /// It takes only what can go nowhere else.
    Draining,
    /// Its key does not open.
    Unusable,
    /// It does not take files of such a purpose.
    Purpose,
    /// The call was there already.
    Tried,
    /// It is not well.
    Trouble(TroubleKind),
    /// It could be chosen, but one of a higher priority, without weight zero or with the files was.
    Behind,
}

/// The channel that a call goes to next, by `roll` where chance decides; or why each is out.
pub(crate) fn choose(
    candidates: &[Candidate],
    needs: &Needs,
    roll: u64,
) -> Result<ChannelId, Vec<(ChannelId, Out)>> {
    let reasons: Vec<_> = candidates.iter().map(|one| (one.id, out(one, needs))).collect();
    let fits = |one: &&Candidate| out(one, needs).is_none();
    let mut left: Vec<&Candidate> = candidates.iter().filter(fits).collect();
    if left.iter().any(|one| one.weight > 0) {
        left.retain(|one| one.weight > 0);
    }
    let Some(first) = left.iter().map(|one| one.priority).max() else {
        return Err(reasons.into_iter().filter_map(|(id, why)| Some((id, why?))).collect());
    };
    left.retain(|one| one.priority == first);
    let well = |one: &&Candidate| one.standing == Standing::Well;
    if left.iter().any(|one| one.has_files && well(one)) {
        left.retain(|one| one.has_files && well(one));
    }
    Ok(weighted(&left, roll))
}

/// Why each channel is out, or would be behind the one that is chosen; for those who ask.
pub(crate) fn explain(candidates: &[Candidate], needs: &Needs) -> Vec<(ChannelId, Option<Out>)> {
    let chosen: Vec<ChannelId> = {
        let mut all: Vec<ChannelId> = Vec::new();
        // Each share of chance once.
        let weights: u64 = candidates.iter().map(|one| u64::from(one.weight.max(1))).sum();
        let rolls = candidates.iter().scan(0, |at, one| {
            let here = *at;
            *at += u64::from(one.weight.max(1));
            Some(here)
        });
        for roll in rolls.chain([weights.saturating_sub(1)]) {
            all.extend(choose(candidates, needs, roll).ok());
        }
        all
    };
    let each = candidates.iter().map(|one| {
        let why = out(one, needs);
        (one.id, why.or((!chosen.contains(&one.id)).then_some(Out::Behind)))
    });
    each.collect()
}

fn out(one: &Candidate, needs: &Needs) -> Option<Out> {
    let pinned = match &needs.pinned {
        Some(channels) if !channels.contains(&one.id) => return Some(Out::Elsewhere),
        pinned => pinned.is_some(),
    };
    if one.others || !(one.allowed || pinned) {
        return Some(Out::NotAllowed);
    }
    match one.state {
        ChannelState::Active => {}
        ChannelState::Draining if pinned => {}
        ChannelState::Draining => return Some(Out::Draining),
        ChannelState::Disabled | ChannelState::Removed => return Some(Out::Disabled),
    }
    if !one.usable {
        return Some(Out::Unusable);
    }
    if needs.avoid.contains(&one.id) {
        return Some(Out::Taken);
    }
    let takes = |purpose| one.purposes.as_ref().is_none_or(|taken| taken.contains(purpose));
    if !needs.purposes.iter().all(takes) {
        return Some(Out::Purpose);
    }
    if one.tried {
        return Some(Out::Tried);
    }
    match one.standing {
        Standing::Well | Standing::Try => None,
        Standing::Out(trouble)
            if trouble.kind == TroubleKind::OutOfBalance && pinned && needs.free =>
        {
            None
        }
        Standing::Out(trouble) => Some(Out::Trouble(trouble.kind)),
    }
}

/// One of `left`, each as likely as its weight; if none has any, each alike.
fn weighted(left: &[&Candidate], roll: u64) -> ChannelId {
    let weight = |one: &&Candidate| u64::from(one.weight);
    let sum: u64 = left.iter().map(weight).sum();
    if sum == 0 {
        return left[(roll % left.len() as u64) as usize].id;
    }
    let mut at = roll % sum;
    for one in left {
        if at < weight(one) {
            return one.id;
        }
        at -= weight(one);
    }
    unreachable!("what is below the sum is below one of the weights")
}

impl Out {
    /// In words for operators.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Elsewhere => "what the call is about is on another channel",
            Self::Taken => "a name of the call's is another account's there",
            Self::NotAllowed => "the account may not use it",
            Self::Disabled => "it is disabled or removed",
            Self::Draining => "it is draining: only what is there goes there",
            Self::Unusable => "its key does not open, or its URL is none",
            Self::Purpose => "it does not take files of this purpose",
            Self::Tried => "the call was there already",
            Self::Trouble(TroubleKind::Limited) => "it is over a limit of its own",
            Self::Trouble(TroubleKind::Failing) => "it fails",
            Self::Trouble(TroubleKind::OutOfBalance) => "it has no money",
            Self::Trouble(TroubleKind::KeyRefused) => "its key is refused",
            Self::Behind => "others come first: by priority, or because the files are there",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use filegate_types::UnixMillis;

    use super::super::health::Trouble;
    use super::*;

    fn candidate(id: i64) -> Candidate {
        Candidate {
            id: ChannelId(id),
            state: ChannelState::Active,
            standing: Standing::Well,
            usable: true,
            allowed: true,
            others: false,
            weight: 1,
            priority: 0,
            purposes: None,
            has_files: false,
            tried: false,
        }
    }

    fn with(id: i64, change: impl FnOnce(&mut Candidate)) -> Candidate {
        let mut one = candidate(id);
        change(&mut one);
        one
    }

    fn shares(candidates: &[Candidate], needs: &Needs) -> BTreeMap<i64, u64> {
        let mut shares = BTreeMap::new();
        for roll in 0..1200 {
            *shares.entry(choose(candidates, needs, roll).unwrap().0).or_default() += 1;
        }
        shares
    }

    fn trouble(kind: TroubleKind) -> Standing {
        Standing::Out(Trouble::at(kind, UnixMillis(1), UnixMillis(0)))
    }

    #[test]
    fn weights_are_shares_among_the_highest_priority() {
        let candidates = [
            with(1, |c| c.weight = 1),
            with(2, |c| c.weight = 3),
            with(3, |c| c.weight = 0),
            with(4, |c| (c.weight, c.priority) = (100, -1)),
        ];
        assert_eq!(shares(&candidates, &Needs::default()), [(1, 300), (2, 900)].into());
    }

    #[test]
    fn without_weight_it_is_used_when_nothing_else_is_left() {
        let candidates =
            [with(1, |c| c.tried = true), with(2, |c| c.weight = 0), with(3, |c| c.weight = 0)];
        assert_eq!(shares(&candidates, &Needs::default()), [(2, 600), (3, 600)].into());
    }

    #[test]
    fn files_that_are_there_decide_within_a_priority_only() {
        let there = |c: &mut Candidate| c.has_files = true;
        let candidates = [candidate(1), with(2, there), with(3, there)];
        assert_eq!(shares(&candidates, &Needs::default()), [(2, 600), (3, 600)].into());
        let candidates = [with(1, |c| c.priority = 1), with(2, there)];
        assert_eq!(shares(&candidates, &Needs::default()), [(1, 1200)].into());
        let candidates =
            [candidate(1), with(2, |c| (c.has_files, c.standing) = (true, Standing::Try))];
        assert_eq!(shares(&candidates, &Needs::default()).len(), 2);
    }

    #[test]
    fn each_reason_is_told() {
        let purpose: PurposeName = "voice_clone".parse().unwrap();
        let other: PurposeName = "prompt_audio".parse().unwrap();
        let needs = Needs { purposes: vec![purpose], ..Needs::default() };
        let candidates = [
            with(1, |c| c.state = ChannelState::Disabled),
            with(2, |c| c.state = ChannelState::Removed),
            with(3, |c| c.state = ChannelState::Draining),
            with(4, |c| c.allowed = false),
            with(5, |c| c.usable = false),
            with(6, |c| c.purposes = Some(vec![other])),
            with(7, |c| c.tried = true),
            with(8, |c| c.standing = trouble(TroubleKind::Limited)),
            with(9, |c| c.others = true),
        ];
        let reasons = choose(&candidates, &needs, 0).unwrap_err();
        let expected = [
            Out::Disabled,
            Out::Disabled,
            Out::Draining,
            Out::NotAllowed,
            Out::Unusable,
            Out::Purpose,
            Out::Tried,
            Out::Trouble(TroubleKind::Limited),
            Out::NotAllowed,
        ];
        assert_eq!(reasons, (1..).map(ChannelId).zip(expected).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_pinned_goes_there_or_nowhere() {
        let needs = Needs { pinned: Some([ChannelId(2)].into()), free: true, ..Needs::default() };
        for (change, fits) in [
            ((|_| {}) as fn(&mut Candidate), true),
            (|c| c.state = ChannelState::Draining, true),
            (|c| c.weight = 0, true),
            (|c| c.allowed = false, true),
            (|c| c.standing = trouble(TroubleKind::OutOfBalance), true),
            (|c| c.standing = trouble(TroubleKind::KeyRefused), false),
            (|c| c.state = ChannelState::Disabled, false),
            (|c| c.others = true, false),
        ] {
            let chosen = choose(&[candidate(1), with(2, change)], &needs, 0);
            assert_eq!(chosen.is_ok_and(|id| id == ChannelId(2)), fits);
        }
        let costs = Needs { free: false, ..needs };
        let poor = with(2, |c| c.standing = trouble(TroubleKind::OutOfBalance));
        assert!(choose(&[candidate(1), poor], &costs, 0).is_err());
    }

    #[test]
    fn those_behind_are_told_from_those_out() {
        let candidates = [
            with(1, |c| c.priority = 1),
            candidate(2),
            with(3, |c| c.state = ChannelState::Disabled),
        ];
        let told = explain(&candidates, &Needs::default());
        assert_eq!(
            told,
            [
                (ChannelId(1), None),
                (ChannelId(2), Some(Out::Behind)),
                (ChannelId(3), Some(Out::Disabled))
            ]
        );
    }
}
