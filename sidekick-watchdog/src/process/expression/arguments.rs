//! The arguments of filters, tests and functions. minijinja looks at them when it comes to a call, record by record; here each
//! call is tried when a configuration is read, with a value of every kind. One that works with none of them is wrong.
//!
//! What is not a constant may be anything: then only the number of arguments and their names are held against a call.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::machinery::Span;
use minijinja::machinery::ast::{CallArg, CallType, Expr};
use minijinja::machinery::parse_expr;
use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};

use super::names::{NameKind, character, children, named};
use super::{ENVIRONMENT, ExpressionError};

/// A call that works with no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongCall {
    /// What is called.
    pub kind: NameKind,
    /// Its name.
    pub name: String,
    /// With which character of the expression that begins, from 1.
    pub at: usize,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for WrongCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            name,
            at,
            why,
        } = self;
        let kind = match kind {
            NameKind::Filter => "filter",
            NameKind::Test => "test",
            NameKind::Function | NameKind::Method | NameKind::Field => "function",
        };
        write!(
            f,
            "the {kind} {name:?} does not work like this (character {at}): {why}"
        )
    }
}

/// The first call in `text` that works with no value.
///
/// # Errors
/// What is wrong with a text that is no expression.
pub fn wrong_call(text: &str) -> Result<Option<WrongCall>, ExpressionError> {
    let wrong = look_through(&parse_expr(text)?).err();
    Ok(wrong.map(|wrong| WrongCall {
        kind: wrong.kind,
        at: character(text, wrong.offset, &wrong.name),
        name: wrong.name,
        why: wrong.why,
    }))
}

struct Wrong {
    kind: NameKind,
    name: String,
    offset: usize,
    why: String,
}

fn look_through(expr: &Expr<'_>) -> Result<(), Wrong> {
    children(expr).into_iter().try_for_each(look_through)?;
    let call = match expr {
        Expr::Filter(filter) => Call {
            kind: NameKind::Filter,
            name: filter.name,
            value: filter.expr.as_ref().and_then(Expr::as_const),
            args: filter.args.iter().collect(),
            span: filter.span(),
        },
        Expr::Test(test) => Call {
            kind: NameKind::Test,
            name: test.name,
            value: test.expr.as_const(),
            args: test.args.iter().collect(),
            span: test.span(),
        },
        Expr::Call(call) => match call.identify_call() {
            CallType::Function(name) => Call {
                kind: NameKind::Function,
                name,
                value: None,
                args: call.args.iter().collect(),
                span: call.expr.span(),
            },
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    call.look_at()
}

struct Call<'e, 'a> {
    kind: NameKind,
    name: &'e str,
    /// What a filter or a test is applied to, if it is a constant.
    value: Option<Value>,
    args: Vec<&'e CallArg<'a>>,
    span: Span,
}

impl<'e, 'a> Call<'e, 'a> {
    fn look_at(&self) -> Result<(), Wrong> {
        if let Some(error) = self.failure() {
            return Err(Wrong {
                kind: self.kind,
                name: self.name.to_owned(),
                offset: self.span.start_offset as usize,
                why: reason(&error),
            });
        }
        match self.inner() {
            Some(inner) => inner.look_at(),
            None => Ok(()),
        }
    }

    /// What `map('round', 2)` and their like call on each item.
    fn inner(&self) -> Option<Self> {
        if self.kind != NameKind::Filter {
            return None;
        }
        let (kind, name, mut args) = named(self.name, &self.args)?;
        if kind == NameKind::Filter {
            // `map` keeps them for itself.
            args.retain(|arg| !matches!(arg, CallArg::Kwarg(..)));
        }
        Some(Self {
            kind,
            name: name.value.as_str()?,
            value: None,
            args,
            span: name.span(),
        })
    }

    /// Why it works with no value at all; `None` if it works with one, or may.
    fn failure(&self) -> Option<Error> {
        // How many `format` takes is in the text that it is applied to.
        if self.name == "format" && self.value.is_none() {
            return None;
        }
        let values = match (&self.value, self.kind) {
            (Some(value), _) => vec![Some(value.clone())],
            (None, NameKind::Function) => vec![None],
            (None, _) => samples().into_iter().map(Some).collect(),
        };
        let constants = self.args.iter().map(|arg| constant(arg));
        let is_constant = constants.flatten().count() == self.args.len();
        let fillers = match is_constant {
            true => vec![Value::UNDEFINED],
            false => samples(),
        };
        let (mut of_count, mut of_kind, mut of_value) = (None, None, None);
        for value in &values {
            for filler in &fillers {
                let args = arguments(&self.args, filler)?;
                let Err(error) = self.call(value.iter().cloned().chain(args)) else {
                    return None;
                };
                let is_count = matches!(
                    error.kind(),
                    ErrorKind::TooManyArguments | ErrorKind::MissingArgument
                );
                if is_count {
                    of_count.get_or_insert(error);
                } else if is_constant {
                    match self.is_of_value(value.as_ref(), &error) {
                        false => of_kind.get_or_insert(error),
                        true => of_value.get_or_insert(error),
                    };
                }
            }
        }
        of_count.or(of_kind).or(of_value)
    }

    /// Whether the value would fail in the same way without the arguments.
    fn is_of_value(&self, value: Option<&Value>, error: &Error) -> bool {
        let bare = self.call(value.cloned());
        bare.is_err_and(|bare| reason(&bare) == reason(error))
    }

    fn call(&self, args: impl IntoIterator<Item = Value>) -> Result<Value, Error> {
        let args: Vec<Value> = args.into_iter().collect();
        let mut state = ENVIRONMENT.empty_state();
        match self.kind {
            NameKind::Filter => state.apply_filter(self.name, &args),
            NameKind::Test => state.perform_test(self.name, &args).map(Value::from),
            NameKind::Function | NameKind::Method | NameKind::Field => {
                let mut globals = ENVIRONMENT.globals();
                match globals.find(|(name, _)| *name == self.name) {
                    Some((_, function)) => function.call(&mut state, &args),
                    None => Err(ErrorKind::UnknownFunction.into()),
                }
            }
        }
    }
}

/// One value of each kind that something in a record or an expression can have, and a number in a text.
fn samples() -> Vec<Value> {
    let nothing: [Value; 0] = [];
    vec![
        Value::UNDEFINED,
        Value::from(()),
        Value::from(true),
        Value::from(1),
        Value::from(2.5),
        Value::from("a"),
        Value::from("1"),
        Value::from_bytes(vec![1]),
        nothing.into_iter().collect(),
        Value::from(BTreeMap::<String, Value>::new()),
    ]
}

fn constant(arg: &CallArg<'_>) -> Option<Value> {
    match arg {
        CallArg::Pos(expr) | CallArg::Kwarg(_, expr) => expr.as_const(),
        CallArg::PosSplat(_) | CallArg::KwargSplat(_) => None,
    }
}

/// The arguments as minijinja hands them over, with `filler` for what is no constant. `None`: nobody knows how many there are.
fn arguments(args: &[&CallArg<'_>], filler: &Value) -> Option<Vec<Value>> {
    let (mut handed, mut named) = (Vec::new(), Vec::new());
    for arg in args {
        let value = constant(arg).unwrap_or_else(|| filler.clone());
        match arg {
            CallArg::Pos(_) => handed.push(value),
            CallArg::Kwarg(name, _) => named.push((*name, value)),
            CallArg::PosSplat(_) | CallArg::KwargSplat(_) => return None,
        }
    }
    if !named.is_empty() {
        handed.push(named.into_iter().collect::<Kwargs>().into());
    }
    Some(handed)
}

fn reason(error: &Error) -> String {
    match (error.detail(), error.kind()) {
        (Some(detail), _) => detail.to_owned(),
        (None, ErrorKind::MissingArgument) => "an argument is missing".to_owned(),
        (None, ErrorKind::TooManyArguments) => "there are too many arguments".to_owned(),
        (None, kind) => kind.to_string(),
    }
}

#[cfg(test)]
mod tests;
