//! In which order descriptors move to their places, as a pure function, so that the child just follows a list.
//!
//! Nothing is ever duplicated to a number beyond the destinations: a second full set would not fit under a limit of
//! 1,024, nor any extra number when the table is full. Cycles go through 0, whose own turn comes after them.

/// One step of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// dup2: `to` is replaced and without CLOEXEC.
    Copy {
        /// The open descriptor.
        from: i32,
        /// Its new number.
        to: i32,
    },
    /// It is in its place: clear CLOEXEC.
    Keep(i32),
    /// Open /dev/null here. All lower numbers are open by then.
    Null(i32),
}

/// One descriptor and where it goes; `from: None` is /dev/null, for 0 to 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The open descriptor: 3 or above, and no two moves have the same.
    pub from: Option<i32>,
    /// Its new number; no two moves have the same.
    pub to: i32,
}

/// The steps, in order. The moves contain 0, 1 and 2.
pub fn plan(moves: &[Move]) -> Vec<Op> {
    // By destination; sources beyond all of them are in nobody's way. There may be thousands.
    let size = moves.iter().map(|m| m.to as usize + 1).max().unwrap_or(0);
    let mut source = vec![None; size];
    let mut wanted = vec![None; size];
    for Move { from, to } in moves {
        source[*to as usize] = *from;
        if let Some(slot) = from.and_then(|from| wanted.get_mut(from as usize)) {
            *slot = Some(*to);
        }
    }
    let source_of = |number: i32| source.get(number as usize).copied().flatten();
    let mut ops = Vec::with_capacity(moves.len() + 2);
    let mut done = vec![false; size];

    // Sources are distinct, so what is not a cycle is a chain that ends in a number nobody needs.
    // Chains are walked once: where one listener of thousands was forgotten, all others make up a single one.
    let mut ends = vec![false; size];
    for Move { from, to } in moves {
        let (Some(from), to) = (*from, *to) else { continue };
        if done[to as usize] {
            continue;
        }
        if from == to {
            ops.push(Op::Keep(to));
            done[to as usize] = true;
            continue;
        }
        let mut at = from;
        while let Some(next) = source_of(at).filter(|_| at != to && !ends[at as usize]) {
            at = next;
        }
        if at != to {
            let mut walked = from;
            while let Some(next) = source_of(walked).filter(|_| walked != at) {
                ends[walked as usize] = true;
                walked = next;
            }
            continue;
        }
        ops.push(Op::Copy { from: to, to: 0 });
        let mut hole = to;
        while let Some(next) = source_of(hole).filter(|next| *next != to) {
            ops.push(Op::Copy { from: next, to: hole });
            done[hole as usize] = true;
            hole = next;
        }
        ops.push(Op::Copy { from: 0, to: hole });
        done[hole as usize] = true;
    }

    // 0 to 2 are nobody's source; in ascending order, so that /dev/null gets its number.
    for Move { from, to } in moves.iter().filter(|m| m.to < 3) {
        match from {
            Some(from) => ops.push(Op::Copy { from: *from, to: *to }),
            None => ops.push(Op::Null(*to)),
        }
        done[*to as usize] = true;
    }
    for Move { to, .. } in moves {
        // Walk to the end of the chain, then fill from there back.
        let mut chain = Vec::new();
        let mut at = Some(*to);
        while let Some(number) = at.filter(|number| source_of(*number).is_some() && !done[*number as usize]) {
            chain.push(number);
            at = wanted[number as usize];
        }
        for number in chain.into_iter().rev() {
            if let Some(from) = source_of(number) {
                ops.push(Op::Copy { from, to: number });
                done[number as usize] = true;
            }
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Follows the plan in a table of `number -> (what, cloexec)` and checks every step.
    fn run(moves: &[Move]) {
        let mut table: HashMap<i32, (i32, bool)> =
            moves.iter().filter_map(|m| m.from).map(|from| (from, (from, true))).collect();
        let highest = moves.iter().flat_map(|m| [m.to, m.from.unwrap_or(0)]).max().unwrap();
        for op in plan(moves) {
            match op {
                Op::Copy { from, to } => {
                    assert_ne!(from, to, "{moves:?}");
                    assert!(to <= highest);
                    let what = table.get(&from).unwrap_or_else(|| panic!("{from} is closed: {moves:?}")).0;
                    table.insert(to, (what, false));
                }
                Op::Keep(fd) => table.get_mut(&fd).unwrap().1 = false,
                Op::Null(fd) => {
                    assert!((0..fd).all(|lower| table.contains_key(&lower)), "{moves:?}");
                    table.insert(fd, (-1, false));
                }
            }
        }
        for m in moves {
            assert_eq!(table.get(&m.to), Some(&(m.from.unwrap_or(-1), false)), "{m:?} of {moves:?}");
        }
    }

    /// All ways to pick `n` distinct numbers from `3..3 + choices`.
    fn arrangements(n: usize, choices: i32, picked: &mut Vec<i32>, each: &mut dyn FnMut(&[i32])) {
        if picked.len() == n {
            return each(picked);
        }
        for number in 3..3 + choices {
            if !picked.contains(&number) {
                picked.push(number);
                arrangements(n, choices, picked, each);
                picked.pop();
            }
        }
    }

    #[test]
    fn every_small_arrangement_ends_in_its_place() {
        let mut count = 0;
        for n in 3..=6usize {
            arrangements(n, n as i32 + 1, &mut Vec::new(), &mut |sources| {
                for closed in 0..8 {
                    let moves: Vec<Move> = sources
                        .iter()
                        .enumerate()
                        .map(|(to, from)| Move {
                            from: (to > 2 || closed & (1 << to) == 0).then_some(*from),
                            to: to as i32,
                        })
                        .collect();
                    run(&moves);
                    count += 1;
                }
            });
        }
        assert!(count > 40_000);
    }

    #[test]
    fn a_thousand_descriptors_in_reverse_shifted_and_rotated() {
        let stdio = (0..3).map(|to| Move { from: Some(2000 + to), to });
        let reverse = (0..1000).map(|i| Move { from: Some(3 + 999 - i), to: 3 + i });
        run(&stdio.clone().chain(reverse).collect::<Vec<_>>());
        let shifted = (0..1000).map(|i| Move { from: Some(3 + i + 1), to: 3 + i });
        run(&stdio.clone().chain(shifted).collect::<Vec<_>>());
        let rotated = (0..1000).map(|i| Move { from: Some(3 + (i + 1) % 1000), to: 3 + i });
        run(&stdio.chain(rotated).collect::<Vec<_>>());
    }
}
