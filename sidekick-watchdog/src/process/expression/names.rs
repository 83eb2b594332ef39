//! The names of an expression: filters, tests and functions. minijinja looks a name up when it comes to it, record by record;
//! here all are looked up when a configuration is read, also those in branches that hardly any record takes.
//!
//! Rules that the store keeps are not held against this: a batch that was planned with a mistake is made again with it.

use std::fmt;

use minijinja::Value;
use minijinja::machinery::ast::{CallArg, CallType, Const, Expr, Spanned};
use minijinja::machinery::{Span, parse_expr};

use super::{ENVIRONMENT, ExpressionError};

/// What an expression may put behind `|`.
const FILTERS: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "default",
    "dictsort",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "trim",
    "unique",
    "upper",
    "zip",
];

/// What it may put behind `is`.
const TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "even",
    "false",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
    "upper",
];

/// What it may call.
const FUNCTIONS: &[&str] = &["dict", "range"];

/// What a name was used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// `text | name`
    Filter,
    /// `text is name`
    Test,
    /// `name(text)`
    Function,
    /// `text.name()`: values have none.
    Method,
    /// `name`, which is a function: where a record has no such field, that would be its value.
    Field,
}

impl NameKind {
    /// The names of this kind that there are, without second names for the same.
    pub fn known(self) -> &'static [&'static str] {
        match self {
            Self::Filter => FILTERS,
            Self::Test => TESTS,
            Self::Function => FUNCTIONS,
            Self::Method | Self::Field => &[],
        }
    }

    fn has(self, name: &str) -> bool {
        // Asked of minijinja itself, which knows more names than those we propose.
        let is = |test: &str| {
            let mut state = ENVIRONMENT.empty_state();
            state.perform_test(test, &[Value::from(name)])
        };
        match self {
            Self::Filter => is("filter").unwrap_or(false),
            Self::Test => is("test").unwrap_or(false),
            Self::Function => is_function(name),
            Self::Method => false,
            Self::Field => !is_function(name),
        }
    }
}

/// A name that means nothing where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// What it was used as.
    pub kind: NameKind,
    /// The name.
    pub name: String,
    /// With which character of the expression it begins, from 1.
    pub at: usize,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, at } = self;
        match kind {
            NameKind::Filter => write!(f, "there is no filter {name:?}"),
            NameKind::Test => write!(f, "there is no test {name:?}"),
            NameKind::Function => write!(f, "there is no function {name:?}"),
            NameKind::Method => write!(f, "values have no methods, such as {name:?}"),
            NameKind::Field => write!(f, "{name:?} is a function"),
        }?;
        write!(f, " (character {at})")
    }
}

/// The first name in `text` that means nothing.
///
/// # Errors
/// What is wrong with a text that is no expression.
pub fn unknown_name(text: &str) -> Result<Option<UnknownName>, ExpressionError> {
    let unknown = look_through(&parse_expr(text)?).err();
    Ok(unknown.map(|Unknown { kind, name, offset }| UnknownName {
        kind,
        at: character(text, offset, &name),
        name,
    }))
}

/// With which character of `text` a name begins, from 1, that stands at this offset or behind it.
pub(super) fn character(text: &str, offset: usize, name: &str) -> usize {
    // The place of a method is that of the value which it is called on.
    let rest = text.get(offset..).unwrap_or_default();
    let offset = offset + rest.find(name).unwrap_or(0);
    let before = text.get(..offset).unwrap_or_default();
    before.chars().count() + 1
}

fn is_function(name: &str) -> bool {
    ENVIRONMENT.globals().any(|(known, _)| known == name)
}

struct Unknown {
    kind: NameKind,
    name: String,
    offset: usize,
}

fn look_up(kind: NameKind, name: &str, span: Span) -> Result<(), Unknown> {
    // As minijinja does: `a . b` is the name "a.b".
    let name: String = name.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    match kind.has(&name) {
        true => Ok(()),
        false => Err(Unknown {
            kind,
            name,
            offset: span.start_offset as usize,
        }),
    }
}

fn look_through(expr: &Expr<'_>) -> Result<(), Unknown> {
    children(expr).into_iter().try_for_each(look_through)?;
    match expr {
        Expr::Var(var) => look_up(NameKind::Field, var.id, var.span()),
        Expr::Filter(filter) => {
            look_up(NameKind::Filter, filter.name, filter.span())?;
            look_up_named(filter.name, &filter.args.iter().collect::<Vec<_>>())
        }
        Expr::Test(test) => look_up(NameKind::Test, test.name, test.span()),
        Expr::Call(call) => match call.identify_call() {
            CallType::Function(name) => look_up(NameKind::Function, name, call.expr.span()),
            CallType::Method(_, name) => look_up(NameKind::Method, name, call.expr.span()),
            // Whatever else is called was looked through; nothing in a record can be.
            CallType::Object(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

fn look_up_named(filter: &str, args: &[&CallArg<'_>]) -> Result<(), Unknown> {
    let Some((kind, text, rest)) = named(filter, args) else {
        return Ok(());
    };
    let name = text.value.as_str().unwrap_or_default();
    look_up(kind, name, text.span())?;
    match kind {
        NameKind::Filter => look_up_named(name, &rest),
        _ => Ok(()),
    }
}

/// `map('upper')`, `select('odd')`, `selectattr('level', 'gt', 3)`: the filter or the test that is named in a text, and its own
/// arguments, which follow: `map('map', 'upper')`.
pub(super) fn named<'e, 'a>(
    filter: &str,
    args: &[&'e CallArg<'a>],
) -> Option<(NameKind, &'e Spanned<Const>, Vec<&'e CallArg<'a>>)> {
    let (kind, at) = match filter {
        "map" => (NameKind::Filter, 0),
        "select" | "reject" => (NameKind::Test, 0),
        "selectattr" | "rejectattr" => (NameKind::Test, 1),
        _ => return None,
    };
    let CallArg::Pos(Expr::Const(text)) = args.get(at)? else {
        return None;
    };
    text.value.as_str()?;
    Some((kind, text, args.get(at + 1..)?.to_vec()))
}

/// The expressions that an expression is made of, but the name of a function that it calls.
pub(super) fn children<'e, 'a>(expr: &'e Expr<'a>) -> Vec<&'e Expr<'a>> {
    match expr {
        Expr::Var(_) | Expr::Const(_) => Vec::new(),
        Expr::Slice(slice) => {
            let ends = [&slice.start, &slice.stop, &slice.step];
            let ends = ends.into_iter().flatten();
            [&slice.expr].into_iter().chain(ends).collect()
        }
        Expr::UnaryOp(op) => vec![&op.expr],
        Expr::BinOp(op) => vec![&op.left, &op.right],
        Expr::Compare(compare) => {
            let others = compare.ops.iter().map(|op| &op.expr);
            [&compare.expr].into_iter().chain(others).collect()
        }
        Expr::IfExpr(choice) => [&choice.test_expr, &choice.true_expr]
            .into_iter()
            .chain(&choice.false_expr)
            .collect(),
        Expr::Filter(filter) => filter.expr.iter().chain(values(&filter.args)).collect(),
        Expr::Test(test) => [&test.expr].into_iter().chain(values(&test.args)).collect(),
        Expr::GetAttr(get) => vec![&get.expr],
        Expr::GetItem(get) => vec![&get.expr, &get.subscript_expr],
        Expr::Call(call) => {
            let called = match call.identify_call() {
                CallType::Function(_) => None,
                _ => Some(&call.expr),
            };
            called.into_iter().chain(values(&call.args)).collect()
        }
        Expr::List(list) => list.items.iter().collect(),
        Expr::Tuple(tuple) => tuple.items.iter().collect(),
        Expr::Map(map) => map.keys.iter().chain(&map.values).collect(),
    }
}

fn values<'e, 'a>(args: &'e [CallArg<'a>]) -> impl Iterator<Item = &'e Expr<'a>> {
    args.iter().map(|arg| match arg {
        CallArg::Pos(expr)
        | CallArg::Kwarg(_, expr)
        | CallArg::PosSplat(expr)
        | CallArg::KwargSplat(expr) => expr,
    })
}

#[cfg(test)]
mod tests {
    use sidekick_ipc::value::Value as Godot;

    use super::super::tests::view;
    use super::super::{Expression, Value as Found};
    use super::*;
    use crate::process::{Shape, ShapeSpec};

    fn unknown(text: &str) -> Option<(NameKind, String, usize)> {
        let unknown = unknown_name(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        unknown.map(|it| (it.kind, it.name, it.at))
    }

    #[test]
    fn names_that_mean_nothing_are_found_wherever_they_stand() {
        use NameKind::{Field, Filter, Function, Method, Test};
        for (text, kind, name, at) in [
            ("text | lenght > 3", Filter, "lenght", 8),
            ("'ä' == text | lenght", Filter, "lenght", 15),
            ("contains(text, 'secret')", Function, "contains", 1),
            ("text.startswith('a')", Method, "startswith", 6),
            ("level is definde", Test, "definde", 10),
            ("level is not definde", Test, "definde", 14),
            ("range is defined and range > 5", Field, "range", 1),
            // Branches that no record needs to take.
            ("true or text | lenght", Filter, "lenght", 16),
            ("false and len(text)", Function, "len", 11),
            ("1 if true else len(text)", Function, "len", 16),
            ("len(1) if false else 2", Function, "len", 1),
            ("1 if len(text)", Function, "len", 6),
            ("tags[len(tags)]", Function, "len", 6),
            ("tags[:len(tags)]", Function, "len", 7),
            ("[1, (2, len(tags))]", Function, "len", 9),
            ("{'a': len(tags)}", Function, "len", 7),
            ("{len(tags): 1}", Function, "len", 2),
            ("-len(tags)", Function, "len", 2),
            ("not len(tags)", Function, "len", 5),
            ("1 < 2 < len(tags)", Function, "len", 9),
            ("1 in len(tags)", Function, "len", 6),
            ("range(len(tags))", Function, "len", 7),
            ("range(*len(tags))", Function, "len", 8),
            ("dict(a=len(tags))", Function, "len", 8),
            ("text | default(len(tags))", Function, "len", 16),
            ("level is divisibleby(len(tags))", Function, "len", 22),
            ("len(tags).a", Function, "len", 1),
            ("len(tags)(1)", Function, "len", 1),
            // Names in texts.
            ("tags | map('uper')", Filter, "uper", 13),
            ("tags | select('od')", Test, "od", 16),
            ("tags | rejectattr('a', 'od')", Test, "od", 25),
            ("tags | map('map', 'uper')", Filter, "uper", 20),
            ("tags | map('map', 'map', 'uper')", Filter, "uper", 27),
            ("tags | map('select', 'od')", Test, "od", 23),
            ("tags | map('selectattr', 'a', 'od')", Test, "od", 32),
            ("debug()", Function, "debug", 1),
            ("namespace(a=1)", Function, "namespace", 1),
        ] {
            assert_eq!(unknown(text), Some((kind, name.into(), at)), "{text}");
        }
    }

    #[test]
    fn what_means_something_is_left_in_peace() {
        for text in [
            "damage > 20 and player.team == 'red'",
            "data.range > 5 and data['range'] > 5 and player.range > 5",
            "tags | map(attribute='lenght') | list == []",
            "tags | map(kind) | list",
            "tags | map('map', 'upper') | map('join', 'x') | map('select', 'odd') | map('map') | list",
            "debug and namespace == 'a'",
            "tags | select | selectattr('lenght') | reject('odd') | list",
            "text | e == '' and count is equalto 3 and text | d('') | count",
            "text is startingwith 'a' and 'a' in text and range(3) | sum == 3",
            "lenght is defined",
        ] {
            assert_eq!(unknown(text), None, "{text}");
        }
        assert!(unknown_name("1 +").is_err());
    }

    /// What we propose exists.
    #[test]
    fn every_name_that_is_told_is_known() {
        for kind in [NameKind::Filter, NameKind::Test, NameKind::Function] {
            for name in kind.known() {
                assert!(kind.has(name), "{kind:?} {name}");
                assert!(!kind.has(&format!("{name}x")), "{kind:?} {name}x");
            }
        }
        let functions: Vec<_> = ENVIRONMENT.globals().map(|(name, _)| name).collect();
        assert_eq!(functions, FUNCTIONS);
    }

    /// A batch may have been planned with it: it is made again as it was.
    #[test]
    fn rules_of_an_earlier_start_are_read_with_their_mistakes() {
        let spec = ShapeSpec {
            pattern: "chat".into(),
            filter: Some("text | lenght > 3".into()),
            ..ShapeSpec::default()
        };
        Shape::parse(&Shape::text([&spec])).unwrap();
    }

    /// Why they are looked for at all: compiled without a word, and then wrong for every record.
    #[test]
    fn minijinja_itself_finds_them_when_a_record_comes() {
        let record = view(&Godot::Nil);
        for text in ["text | lenght", "contains(text)", "text.strip()"] {
            let compiled = Expression::compile(text).unwrap();
            assert!(compiled.eval(&record).is_err(), "{text}");
        }
        let range = Expression::compile("range").unwrap().eval(&record).unwrap();
        assert!(range != Found::UNDEFINED);
    }
}
