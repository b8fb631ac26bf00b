// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who can come to run after whom, and how deep the stack gets.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::Code;

/// The calls of an image, with those through registers.
pub struct Graph<'a> {
    code: &'a Code,
    /// Callees of each function, and whether they are reached by jumps only.
    callees: Vec<BTreeMap<usize, bool>>,
    /// Functions with calls through registers that no rule explains.
    unexplained: BTreeSet<usize>,
}

/// How deep the stack gets, and on which way.
#[derive(Clone, Debug, Default)]
pub struct Depth {
    /// Bytes.
    pub bytes: u64,
    /// Functions from the entry to the deepest one.
    pub path: Vec<usize>,
}

impl<'a> Graph<'a> {
    /// Joins the calls of `code` with what `rules` say of calls through registers. A name in a rule
    /// is a part of a function's name.
    pub fn new(code: &'a Code, rules: &BTreeMap<String, Vec<String>>) -> Self {
        let mut unexplained = BTreeSet::new();
        let mut callees = Vec::new();
        for (index, function) in code.functions.iter().enumerate() {
            let mut all = BTreeMap::new();
            for call in &function.calls {
                *all.entry(call.callee).or_insert(true) &= call.jump;
            }
            if !function.indirect.is_empty() {
                match rules.iter().find(|rule| function.name.contains(rule.0)) {
                    Some((_, names)) => {
                        let named = names.iter().flat_map(|name| code.named(name));
                        all.extend(named.map(|callee| (callee, false)));
                    }
                    None => {
                        unexplained.insert(index);
                    }
                }
            }
            callees.push(all);
        }
        Self {
            code,
            callees,
            unexplained,
        }
    }

    /// Returns every function that can run once one of `roots` does.
    pub fn reach(&self, roots: &[usize]) -> BTreeSet<usize> {
        let mut found: BTreeSet<usize> = roots.iter().copied().collect();
        let mut waiting = roots.to_vec();
        while let Some(next) = waiting.pop() {
            for callee in self.callees[next].keys() {
                if found.insert(*callee) {
                    waiting.push(*callee);
                }
            }
        }
        found
    }

    /// Fails if one of `reached` calls something that is not known.
    pub fn check_explained(&self, reached: &BTreeSet<usize>) -> Result<()> {
        let names: Vec<&str> = reached
            .intersection(&self.unexplained)
            .map(|index| self.code.functions[*index].name.as_str())
            .collect();
        if !names.is_empty() {
            bail!(
                "no rule says whom these call through a register:\n  {}",
                names.join("\n  ")
            );
        }
        Ok(())
    }

    /// Returns the deepest stack below `root`.
    ///
    /// # Errors
    ///
    /// If a function can come to call itself, or moves its stack pointer by an unknown amount and is
    /// not among `known`.
    pub fn depth(&self, root: usize, known: &[String]) -> Result<Depth> {
        let mut search = Search {
            graph: self,
            known,
            way: Vec::new(),
            done: BTreeMap::new(),
        };
        Ok(search.descend(root)?.0)
    }
}

struct Search<'a> {
    graph: &'a Graph<'a>,
    known: &'a [String],
    way: Vec<usize>,
    done: BTreeMap<usize, Depth>,
}

impl Search<'_> {
    /// Returns the deepest stack below one function, and whether no loop was left out of it.
    fn descend(&mut self, index: usize) -> Result<(Depth, bool)> {
        if let Some(depth) = self.done.get(&index) {
            return Ok((depth.clone(), true));
        }
        let functions = &self.graph.code.functions;
        let function = &functions[index];
        if function.dynamic && !self.known.contains(&function.name) {
            bail!("{} takes stack by an unknown amount", function.name);
        }
        self.way.push(index);
        let mut deepest = Depth::default();
        let mut whole = true;
        for (callee, jump) in &self.graph.callees[index] {
            if let Some(start) = self.way.iter().position(|at| at == callee) {
                // A loop of jumps takes no more stack each time around.
                if *jump {
                    whole = false;
                    continue;
                }
                let names: Vec<&str> = self.way[start..]
                    .iter()
                    .map(|at| functions[*at].name.as_str())
                    .collect();
                bail!("recursion:\n  {}", names.join("\n  "));
            }
            let (depth, complete) = self.descend(*callee)?;
            whole &= complete;
            if depth.bytes > deepest.bytes || deepest.path.is_empty() {
                deepest = depth;
            }
        }
        self.way.pop();
        deepest.bytes += function.frame;
        deepest.path.insert(0, index);
        if whole {
            self.done.insert(index, deepest.clone());
        }
        Ok((deepest, whole))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Call, Code, Function};
    use super::Graph;

    /// Makes functions of these frames, with calls and jumps between them.
    fn code(frames: &[u64], calls: &[(usize, usize, bool)]) -> Code {
        let functions = frames.iter().enumerate().map(|(index, frame)| Function {
            name: format!("f{index}"),
            frame: *frame,
            calls: calls
                .iter()
                .filter(|call| call.0 == index)
                .map(|call| Call {
                    at: 0,
                    callee: call.1,
                    jump: call.2,
                })
                .collect(),
            ..Function::default()
        });
        Code {
            functions: functions.collect(),
        }
    }

    #[test]
    fn the_deepest_way_counts() {
        let code = code(
            &[16, 100, 32, 64],
            &[(0, 1, false), (0, 2, false), (2, 3, false)],
        );
        let depth = Graph::new(&code, &BTreeMap::new()).depth(0, &[]).unwrap();
        assert_eq!((depth.bytes, depth.path), (116, vec![0, 1]));
    }

    #[test]
    fn recursion_is_refused_and_a_loop_of_jumps_is_not() {
        let graph = |jump| {
            let code = code(&[16, 32, 8], &[(0, 1, false), (1, 0, jump), (0, 2, false)]);
            Graph::new(&code, &BTreeMap::new())
                .depth(0, &[])
                .map(|depth| depth.bytes)
        };
        assert_eq!(graph(true).unwrap(), 48);
        assert!(graph(false).is_err());
    }

    #[test]
    fn a_call_through_a_register_needs_a_rule() {
        let mut code = code(&[16, 32], &[]);
        code.functions[0].indirect.push(4);
        let none = BTreeMap::new();
        let reached = Graph::new(&code, &none).reach(&[0]);
        assert!(Graph::new(&code, &none).check_explained(&reached).is_err());
        let rules = BTreeMap::from([("f0".to_owned(), vec!["f1".to_owned()])]);
        let graph = Graph::new(&code, &rules);
        assert!(graph.check_explained(&graph.reach(&[0])).is_ok());
        assert_eq!(graph.depth(0, &[]).unwrap().bytes, 48);
    }
}
