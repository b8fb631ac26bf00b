// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Fault plans as TOML.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use toml::{Table, Value};

use super::alter::length_field;
use super::{At, Fault, FaultPlan, Message, Occasion, Occurrence, View, What};

/// Longest delay, in milliseconds.
const DELAY_LIMIT: i64 = 600_000;
/// Most bytes that a message is extended by.
const EXTEND_LIMIT: i64 = 0x4_0000;

/// Why a text is not a fault plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// Number of the `[[fault]]`, counted from 1, or `None` for the text as a whole.
    pub row: Option<usize>,
    /// The field that is wrong or missing; empty for the text as a whole.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for PlanError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(row) = self.row {
            write!(out, "fault {row}: ")?;
        }
        if !self.field.is_empty() {
            write!(out, "`{}`: ", self.field)?;
        }
        out.write_str(&self.problem)
    }
}

impl std::error::Error for PlanError {}

impl FromStr for FaultPlan {
    type Err = PlanError;

    /// Reads a plan: an array of tables named `fault`.
    fn from_str(text: &str) -> Result<Self, PlanError> {
        let whole = |problem: String| PlanError {
            row: None,
            field: String::new(),
            problem,
        };
        let mut table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| whole(error.to_string().trim_end().into()))?;
        let rows = match table.remove("fault") {
            Some(Value::Array(rows)) => rows,
            Some(_) => return Err(whole("`fault` is not an array of tables".into())),
            None => Vec::new(),
        };
        if let Some(field) = table.keys().next() {
            let mut error = whole("a plan has `[[fault]]` tables only".into());
            error.field.clone_from(field);
            return Err(error);
        }
        let mut faults = Vec::new();
        for (index, row) in rows.into_iter().enumerate() {
            let Value::Table(fields) = row else {
                return Err(whole("`fault` is not an array of tables".into()));
            };
            let row = index + 1;
            let mut fields = Fields { row, fields };
            faults.push(fault(&mut fields)?);
            fields.end()?;
        }
        Ok(Self { faults })
    }
}

/// The fields of a row that are not read yet.
struct Fields {
    row: usize,
    fields: Table,
}

impl Fields {
    fn wrong(&self, field: &str, problem: impl Into<String>) -> PlanError {
        PlanError {
            row: Some(self.row),
            field: field.into(),
            problem: problem.into(),
        }
    }

    fn optional_number(
        &mut self,
        field: &str,
        low: i64,
        high: i64,
    ) -> Result<Option<i64>, PlanError> {
        match self.fields.remove(field) {
            None => Ok(None),
            Some(Value::Integer(number)) if (low..=high).contains(&number) => Ok(Some(number)),
            Some(Value::Integer(number)) => {
                Err(self.wrong(field, format!("{number} is not in {low} to {high}")))
            }
            Some(other) => Err(self.wrong(field, format!("a number, not {}", other.type_str()))),
        }
    }

    fn number(&mut self, field: &str, low: i64, high: i64) -> Result<i64, PlanError> {
        self.optional_number(field, low, high)?
            .ok_or_else(|| self.wrong(field, "missing"))
    }

    fn byte(&mut self, field: &str) -> Result<u8, PlanError> {
        self.number(field, 0, 0xff).map(|number| number as u8)
    }

    fn optional_text(&mut self, field: &str) -> Result<Option<String>, PlanError> {
        match self.fields.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, format!("a string, not {}", other.type_str()))),
        }
    }

    fn text(&mut self, field: &str) -> Result<String, PlanError> {
        self.optional_text(field)?
            .ok_or_else(|| self.wrong(field, "missing"))
    }

    fn optional_bytes(&mut self, field: &str) -> Result<Option<Vec<u8>>, PlanError> {
        let Some(text) = self.optional_text(field)? else {
            return Ok(None);
        };
        let digits: Option<Vec<u8>> = text
            .chars()
            .filter(|digit| !digit.is_whitespace())
            .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
            .collect();
        let digits = digits.filter(|digits| digits.len().is_multiple_of(2));
        let digits =
            digits.ok_or_else(|| self.wrong(field, "bytes are pairs of hexadecimal digits"))?;
        let bytes = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]);
        Ok(Some(bytes.collect()))
    }

    fn bytes(&mut self, field: &str) -> Result<Vec<u8>, PlanError> {
        self.optional_bytes(field)?
            .ok_or_else(|| self.wrong(field, "missing"))
    }

    fn message(&self, field: &str, name: &str) -> Result<Message, PlanError> {
        Message::named(name)
            .ok_or_else(|| self.wrong(field, format!("`{name}` is no message's name")))
    }

    fn view(&mut self) -> Result<View, PlanError> {
        match self.optional_text("view")?.as_deref() {
            None | Some("plain") => Ok(View::Plain),
            Some("wire") => Ok(View::Wire),
            Some(other) => Err(self.wrong("view", format!("`plain` or `wire`, not `{other}`"))),
        }
    }

    fn offset(&mut self) -> Result<i32, PlanError> {
        let limit = i64::from(i32::MAX);
        self.number("offset", -limit, limit)
            .map(|offset| offset as i32)
    }

    /// Refuses what nobody asked for.
    fn end(&self) -> Result<(), PlanError> {
        match self.fields.keys().next() {
            Some(field) => Err(self.wrong(field, "this fault takes no such field")),
            None => Ok(()),
        }
    }
}

fn fault(fields: &mut Fields) -> Result<Fault, PlanError> {
    let at = at(fields)?;
    let occurrence = occurrence(fields)?;
    let interface = fields.optional_number("interface", 0, 0xffff)?;
    let what = what(fields)?;
    if interface.is_some() && matches!(at, At::Event(_)) {
        return Err(fields.wrong("interface", "an event is about no interface"));
    }
    check(fields, at, &what)?;
    Ok(Fault {
        at,
        occurrence,
        interface: interface.map(|interface| interface as u16),
        what,
    })
}

fn at(fields: &mut Fields) -> Result<At, PlanError> {
    let named = fields.optional_text("at")?;
    let event = fields.optional_text("event")?;
    match (named.as_deref(), event.as_deref()) {
        (Some(name), None) => match name.strip_prefix("answer to ") {
            Some(request) => {
                let message = fields.message("at", request)?;
                if !message.is_request() {
                    return Err(fields.wrong("at", format!("`{request}` is no request")));
                }
                Ok(At::AnswerTo(message))
            }
            None => fields.message("at", name).map(At::Message),
        },
        (None, Some(event)) => Ok(At::Event(match event {
            "connect" => Occasion::Connect,
            "disconnect" => Occasion::Disconnect,
            "tick" => Occasion::Tick,
            "session" => Occasion::Session,
            "stream" => Occasion::Stream,
            other => return Err(fields.wrong("event", format!("`{other}` is no event"))),
        })),
        (None, None) => Err(fields.wrong("at", "missing; or give an `event`")),
        (Some(_), Some(_)) => Err(fields.wrong("event", "there is an `at` already")),
    }
}

fn occurrence(fields: &mut Fields) -> Result<Occurrence, PlanError> {
    let limit = i64::from(u32::MAX);
    let nth = fields.optional_number("nth", 1, limit)?;
    let every = fields.optional_number("every", 1, limit)?;
    let after = fields.optional_number("after", 0, limit)?;
    match (nth, every, after) {
        (None, None, None) => Ok(Occurrence::Nth(1)),
        (Some(number), None, None) => Ok(Occurrence::Nth(number as u32)),
        (None, Some(number), None) => Ok(Occurrence::Every(number as u32)),
        (None, None, Some(number)) => Ok(Occurrence::After(number as u32)),
        _ => Err(fields.wrong("nth", "only one of `nth`, `every` and `after`")),
    }
}

fn what(fields: &mut Fields) -> Result<What, PlanError> {
    let name = fields.text("what")?;
    Ok(match name.as_str() {
        "drop" => What::Drop,
        "delay" => {
            let milliseconds = fields.number("ms", 0, DELAY_LIMIT)?;
            What::Delay(Duration::from_millis(milliseconds as u64))
        }
        "flip" => What::Flip {
            view: fields.view()?,
            offset: fields.offset()?,
            bit: fields.number("bit", 0, 7)? as u8,
        },
        "set" => What::Set {
            view: fields.view()?,
            offset: fields.offset()?,
            bytes: fields.bytes("bytes")?,
        },
        "truncate" => What::Truncate {
            view: fields.view()?,
            keep: fields.number("keep", 0, i64::from(i32::MAX))? as usize,
        },
        "extend" => What::Extend {
            view: fields.view()?,
            by: fields.number("by", 1, EXTEND_LIMIT)? as usize,
        },
        "replay" => What::Replay(fields.view()?),
        "stale" => What::Stale,
        "swap" => {
            let with = fields.text("with")?;
            What::Swap(fields.message("with", &with)?)
        }
        "wrong-signature" => What::WrongSignature,
        "wrong-nonce" => What::WrongNonce,
        "wrong-state" => What::WrongState(fields.byte("state")?),
        "lying-length" => What::LyingLength(fields.number("by", -0xffff, 0xffff)? as i32),
        "unsolicited" => What::Unsolicited(fields.bytes("bytes")?),
        other => return refusal_or_physical(fields, other),
    })
}

/// Reads the faults that are an answer of their own, or happen to the device as a whole.
fn refusal_or_physical(fields: &mut Fields, name: &str) -> Result<What, PlanError> {
    const BUSY: u8 = 0x03;
    let word = i64::from(u32::MAX);
    Ok(match name {
        "error" => What::Error {
            code: fields.byte("code")?,
            data: fields.optional_number("data", 0, 0xff)?.unwrap_or(0) as u8,
            extended: fields.optional_bytes("extended")?.unwrap_or_default(),
        },
        "busy" => What::Error {
            code: BUSY,
            data: 0,
            extended: Vec::new(),
        },
        "not-ready" => What::NotReady {
            exponent: fields.byte("exponent")?,
        },
        "tdisp-error" => What::TdispError {
            code: fields.number("code", 0, word)? as u32,
            data: fields.optional_number("data", 0, word)?.unwrap_or(0) as u32,
        },
        "key-status" => What::KeyStatus(fields.byte("status")?),
        "lose-session" => What::LoseSession,
        "reset" => What::Reset,
        "flr" => {
            let function = fields.optional_number("function", 0, 0xffff)?;
            What::FunctionReset(function.map(|function| function as u16))
        }
        "link-down" => What::LinkDown,
        "remove" => What::Remove,
        "hang" => What::Hang,
        other => return Err(fields.wrong("what", format!("`{other}` is no fault"))),
    })
}

/// Refuses a fault that could never happen where it is asked for.
fn check(fields: &Fields, at: At, what: &What) -> Result<(), PlanError> {
    let physical = matches!(
        what,
        What::LoseSession
            | What::Reset
            | What::FunctionReset(_)
            | What::LinkDown
            | What::Remove
            | What::Hang
            | What::Unsolicited(_)
    );
    match at {
        At::Event(_) if !physical => {
            Err(fields.wrong("what", format!("no `{}` at an event", what.name())))
        }
        At::Message(message)
            if matches!(what, What::LyingLength(_)) && length_field(message).is_none() =>
        {
            Err(fields.wrong("what", format!("`{message}` has no length field")))
        }
        At::Message(message) if message.is_request() => match what {
            What::WrongSignature | What::WrongState(_) | What::Replay(_) | What::Swap(_) => {
                let problem = format!("`{}` is for answers; `{message}` is a request", what.name());
                Err(fields.wrong("what", problem))
            }
            _ => Ok(()),
        },
        At::Message(_) | At::AnswerTo(_) if matches!(what, What::NotReady { .. }) => {
            Err(fields.wrong("what", "`not-ready` is for requests"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{At, Fault, FaultPlan, Message, Occasion, Occurrence, View, What};

    fn problem(text: &str) -> String {
        text.parse::<FaultPlan>().unwrap_err().to_string()
    }

    #[test]
    fn rows_are_read() {
        let plan: FaultPlan = r#"
            [[fault]]
            at = "LOCK_INTERFACE_RESPONSE"
            after = 2
            interface = 0x0100
            what = "flip"
            offset = -1
            bit = 7
            view = "wire"

            [[fault]]
            event = "session"
            nth = 3
            what = "flr"

            [[fault]]
            at = "answer to K_SET_STOP"
            what = "set"
            offset = 3
            bytes = "00 ff"
        "#
        .parse()
        .unwrap();
        let mut second = Fault::new(At::Event(Occasion::Session), What::FunctionReset(None));
        second.occurrence = Occurrence::Nth(3);
        let third = What::Set {
            view: View::Plain,
            offset: 3,
            bytes: vec![0, 0xff],
        };
        let first = Fault {
            at: At::Message(Message::LOCK_INTERFACE_RESPONSE),
            occurrence: Occurrence::After(2),
            interface: Some(0x100),
            what: What::Flip {
                view: View::Wire,
                offset: -1,
                bit: 7,
            },
        };
        let third = Fault::new(At::AnswerTo(Message::K_SET_STOP), third);
        assert_eq!(plan.faults, [first, second, third]);
        assert_eq!("".parse(), Ok(FaultPlan::default()));
    }

    #[test]
    fn an_error_names_row_and_field() {
        let cases = [
            ("at = 'VERSION'", "fault 1: `what`: missing"),
            (
                "what = 'drop'",
                "fault 1: `at`: missing; or give an `event`",
            ),
            (
                "at = 'LOCK'\nwhat = 'drop'",
                "fault 1: `at`: `LOCK` is no message's name",
            ),
            (
                "at = 'VERSION'\nwhat = 'flip'\noffset = 1\nbit = 8",
                "fault 1: `bit`: 8 is not in 0 to 7",
            ),
            (
                "at = 'VERSION'\nwhat = 'drop'\nbit = 1",
                "fault 1: `bit`: this fault takes no such field",
            ),
            (
                "at = 'VERSION'\nnth = '2'\nwhat = 'drop'",
                "fault 1: `nth`: a number, not string",
            ),
            (
                "at = 'VERSION'\nnth = 2\nevery = 2\nwhat = 'drop'",
                "fault 1: `nth`: only one of `nth`, `every` and `after`",
            ),
            (
                "event = 'tick'\nwhat = 'drop'",
                "fault 1: `what`: no `drop` at an event",
            ),
            (
                "at = 'answer to VERSION'\nwhat = 'drop'",
                "fault 1: `at`: `VERSION` is no request",
            ),
            (
                "at = 'FINISH'\nwhat = 'wrong-signature'",
                "fault 1: `what`: `wrong-signature` is for answers; `FINISH` is a request",
            ),
            (
                "at = 'FINISH'\nwhat = 'set'\noffset = 1\nbytes = '1'",
                "fault 1: `bytes`: bytes are pairs of hexadecimal digits",
            ),
            (
                "at = 'DIGESTS'\nwhat = 'lying-length'\nby = 1",
                "fault 1: `what`: `DIGESTS` has no length field",
            ),
            (
                "at = 'FINISH'\nwhat = 'explode'",
                "fault 1: `what`: `explode` is no fault",
            ),
        ];
        for (row, expected) in cases {
            assert_eq!(problem(&format!("[[fault]]\n{row}")), expected);
        }
        let good = "[[fault]]\nat = 'VERSION'\nwhat = 'drop'\n";
        assert!(problem(&format!("{good}[[fault]]")).starts_with("fault 2: `at`"));
        assert_eq!(
            problem("fautl = 1"),
            "`fautl`: a plan has `[[fault]]` tables only"
        );
        assert!(problem("[[fault]\n").contains("line 1"));
    }
}
