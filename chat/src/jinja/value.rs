//! The values of a template: Python's.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use super::ast::Macro;
use super::error::{Error, Result};
use super::eval::{Loop, Scope};
use super::python::{float_repr, str_repr};

#[derive(Clone)]
pub enum Value {
    /// A variable that is not there, and what an error about it says.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Rc<List>),
    Tuple(Rc<Tuple>),
    Dict(Rc<Dict>),
    /// Items that can be iterated again and again, but are no list.
    View(Rc<View>),
    /// Items that can be iterated once.
    Iter(Rc<Iter>),
    Namespace(Rc<RefCell<Dict>>),
    Loop(Rc<Loop>),
    Callable(Rc<Callable>),
}

/// A string, or what jinja calls `Markup`: added to it, another string is escaped.
#[derive(Clone)]
pub struct Text {
    pub text: Rc<str>,
    pub safe: bool,
}

/// How many containers may lie in one another: they are printed, compared and dropped recursively.
pub const MAX_DEPTH: usize = 150;

/// Bytes of text that count as one step.
pub const BYTES_PER_STEP: usize = 32;

/// How far a container reaches. What is in several places is counted at each, as it is printed and compared there.
#[derive(Clone, Copy, Default)]
struct Extent {
    /// How many containers lie in one another in its items.
    depth: usize,
    /// As [`Value::weight`], of its items together.
    weight: u64,
}

impl Extent {
    fn of<'v>(items: impl IntoIterator<Item = &'v Value>) -> Self {
        items.into_iter().fold(Self::default(), Self::with)
    }

    fn with(self, item: &Value) -> Self {
        Self { depth: self.depth.max(item.depth()), weight: self.weight.saturating_add(item.weight()) }
    }
}

pub struct List {
    pub items: Vec<Value>,
    extent: Extent,
}

/// A tuple, whose items may have names.
pub struct Tuple {
    pub items: Vec<Value>,
    pub names: &'static [&'static str],
    extent: Extent,
}

pub struct View {
    pub items: Vec<Value>,
    pub kind: ViewKind,
    extent: Extent,
}

pub struct Iter {
    items: RefCell<std::vec::IntoIter<Value>>,
    extent: Extent,
}

#[derive(PartialEq)]
pub enum ViewKind {
    Keys,
    Values,
    Items,
    /// As it was called.
    Range(String),
}

pub enum Callable {
    /// A global function.
    Function(&'static str),
    /// A method of a value.
    Method(Value, String),
    Macro(Arc<Macro>, Rc<Scope>),
    Cycler(Vec<Value>, Cell<usize>),
    Joiner(Value, Cell<bool>),
}

/// Pairs in the order in which they came.
#[derive(Clone, Default)]
pub struct Dict {
    pub pairs: Vec<(Value, Value)>,
    extent: Extent,
}

impl Dict {
    /// As [`Value::weight`]. Each key of a dict is looked for among those of the other.
    fn weight(&self) -> u64 {
        let lookups = self.pairs.len().saturating_mul(self.pairs.len()) / BYTES_PER_STEP;
        self.extent.weight.saturating_add(lookups as u64)
    }

    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.pairs.iter().find(|(found, _)| found.equals(key)).map(|(_, value)| value)
    }

    pub fn get_str(&self, key: &str) -> Option<&Value> {
        let is_key = |found: &Value| matches!(found, Value::Str(text) if &*text.text == key);
        self.pairs.iter().find(|(found, _)| is_key(found)).map(|(_, value)| value)
    }

    pub fn insert(&mut self, key: Value, value: Value) {
        self.extent = self.extent.with(&key).with(&value);
        match self.pairs.iter_mut().find(|(found, _)| found.equals(&key)) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key, value)),
        }
    }

    pub fn keys(&self) -> Vec<Value> {
        self.pairs.iter().map(|(key, _)| key.clone()).collect()
    }

    pub fn values(&self) -> Vec<Value> {
        self.pairs.iter().map(|(_, value)| value.clone()).collect()
    }

    pub fn items(&self) -> Vec<Value> {
        self.pairs.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()])).collect()
    }
}

impl From<&Json> for Value {
    fn from(json: &Json) -> Self {
        match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(int), _) => Self::Int(int.into()),
                (None, Some(int)) => Self::Int(int.into()),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::from(text.as_str()),
            Json::Array(items) => Self::list(items.iter().map(Self::from).collect()),
            Json::Object(map) => {
                Self::dict(map.iter().map(|(key, value)| (Self::from(key.as_str()), Self::from(value))).collect())
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(Text { text: text.into(), safe: false })
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(Text { text: text.into(), safe: false })
    }
}

impl Value {
    pub fn undefined(message: impl Into<String>) -> Self {
        Self::Undefined(message.into().into())
    }

    pub fn safe(text: String) -> Self {
        Self::Str(Text { text: text.into(), safe: true })
    }

    pub fn list(items: Vec<Self>) -> Self {
        let extent = Extent::of(&items);
        Self::List(Rc::new(List { items, extent }))
    }

    pub fn tuple(items: Vec<Self>) -> Self {
        Self::named_tuple(items, &[])
    }

    pub fn named_tuple(items: Vec<Self>, names: &'static [&'static str]) -> Self {
        let extent = Extent::of(&items);
        Self::Tuple(Rc::new(Tuple { items, names, extent }))
    }

    /// Keys must differ.
    pub fn dict(pairs: Vec<(Self, Self)>) -> Self {
        let extent = Extent::of(pairs.iter().flat_map(|(key, value)| [key, value]));
        Self::Dict(Rc::new(Dict { pairs, extent }))
    }

    pub fn iter(items: Vec<Self>) -> Self {
        let extent = Extent::of(&items);
        Self::Iter(Rc::new(Iter { items: RefCell::new(items.into_iter()), extent }))
    }

    pub fn view(items: Vec<Self>, kind: ViewKind) -> Self {
        let extent = Extent::of(&items);
        Self::View(Rc::new(View { items, kind, extent }))
    }

    /// How many containers lie in one another in this one. What can hold itself counts as too deep to be put into one.
    pub fn depth(&self) -> usize {
        match self {
            Self::List(list) => list.extent.depth + 1,
            Self::Tuple(tuple) => tuple.extent.depth + 1,
            Self::Dict(dict) => dict.extent.depth + 1,
            Self::View(view) => view.extent.depth + 1,
            Self::Iter(iter) => iter.extent.depth + 1,
            Self::Namespace(_) | Self::Loop(_) => MAX_DEPTH,
            Self::Callable(callable) => match &**callable {
                Callable::Function(_) | Callable::Macro(..) => 0,
                Callable::Method(of, _) | Callable::Joiner(of, _) => of.depth() + 1,
                Callable::Cycler(items, _) => Extent::of(items).depth + 1,
            },
            _ => 0,
        }
    }

    /// How many steps it takes to print the value, or to compare it with another one.
    pub fn weight(&self) -> u64 {
        let items = match self {
            Self::Str(text) => (text.text.len() / BYTES_PER_STEP) as u64,
            Self::List(list) => list.extent.weight,
            Self::Tuple(tuple) => tuple.extent.weight,
            Self::Dict(dict) => dict.weight(),
            Self::View(view) => view.extent.weight,
            Self::Iter(iter) => iter.extent.weight,
            Self::Namespace(attributes) => attributes.borrow().weight(),
            _ => 0,
        };
        items.saturating_add(1)
    }

    pub fn callable(callable: Callable) -> Self {
        Self::Callable(Rc::new(callable))
    }

    pub fn int(number: usize) -> Self {
        Self::Int(i128::try_from(number).expect("a usize fits"))
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(&text.text),
            _ => None,
        }
    }

    /// A whole number, which `True` and `False` are, too.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            _ => self.as_int().map(|number| number as f64),
        }
    }

    /// What Python calls the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(text) if text.safe => "Markup",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(view) => match view.kind {
                ViewKind::Keys => "dict_keys",
                ViewKind::Values => "dict_values",
                ViewKind::Items => "dict_items",
                ViewKind::Range(_) => "range",
            },
            Self::Iter(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Callable(_) => "function",
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            _ => self.len().is_none_or(|length| length > 0),
        }
    }

    /// The number of items or characters, of what has one.
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::Undefined(_) => Some(0),
            Self::Str(text) => Some(text.text.chars().count()),
            Self::List(list) => Some(list.items.len()),
            Self::Tuple(tuple) => Some(tuple.items.len()),
            Self::Dict(dict) => Some(dict.pairs.len()),
            Self::View(view) => Some(view.items.len()),
            Self::Loop(state) => Some(state.items.len()),
            _ => None,
        }
    }

    /// The items of a list, a tuple or a range.
    pub fn as_sequence(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(&list.items),
            Self::Tuple(tuple) => Some(&tuple.items),
            Self::View(view) if matches!(view.kind, ViewKind::Range(_)) => Some(&view.items),
            _ => None,
        }
    }

    /// What a loop over the value goes through.
    pub fn items(&self) -> Result<Vec<Self>> {
        Ok(match self {
            Self::Undefined(_) => Vec::new(),
            Self::Str(text) => {
                let character = |c: char| Self::Str(Text { text: c.to_string().into(), safe: text.safe });
                text.text.chars().map(character).collect()
            }
            Self::List(list) => list.items.clone(),
            Self::Tuple(tuple) => tuple.items.clone(),
            Self::Dict(dict) => dict.keys(),
            Self::View(view) => view.items.clone(),
            Self::Iter(iter) => iter.items.borrow_mut().by_ref().collect(),
            _ => return Err(Error::new(format!("'{}' object is not iterable", self.type_name()))),
        })
    }

    /// Python's `==`.
    pub fn equals(&self, other: &Self) -> bool {
        let all = |a: &[Self], b: &[Self]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b));
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => a.text == b.text,
            (Self::List(a), Self::List(b)) => all(&a.items, &b.items),
            (Self::Tuple(a), Self::Tuple(b)) => all(&a.items, &b.items),
            (Self::Dict(a), Self::Dict(b)) => {
                a.pairs.len() == b.pairs.len()
                    && a.pairs.iter().all(|(key, value)| b.get(key).is_some_and(|b| b.equals(value)))
            }
            (Self::View(a), Self::View(b)) => match (&a.kind, &b.kind) {
                (ViewKind::Values, _) | (_, ViewKind::Values) => Rc::ptr_eq(a, b),
                _ => all(&a.items, &b.items),
            },
            (Self::Iter(a), Self::Iter(b)) => Rc::ptr_eq(a, b),
            (Self::Namespace(a), Self::Namespace(b)) => Rc::ptr_eq(a, b),
            (Self::Callable(a), Self::Callable(b)) => Rc::ptr_eq(a, b),
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => self.as_number().zip(other.as_number()).is_some_and(|(a, b)| a == b),
            },
        }
    }

    /// How two values are ordered; `None` for NaN.
    pub fn order(&self, other: &Self) -> Result<Option<Ordering>> {
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (self.as_number(), other.as_number()) {
            return Ok(a.partial_cmp(&b));
        }
        match (self, other) {
            (Self::Undefined(message), _) | (_, Self::Undefined(message)) => Err(Error::new(&**message)),
            (Self::Str(a), Self::Str(b)) => Ok(Some(a.text.cmp(&b.text))),
            (Self::List(_), Self::List(_)) | (Self::Tuple(_), Self::Tuple(_)) => {
                let (a, b) = (self.as_sequence().unwrap_or_default(), other.as_sequence().unwrap_or_default());
                match a.iter().zip(b).find(|(a, b)| !a.equals(b)) {
                    Some((a, b)) => a.order(b),
                    None => Ok(Some(a.len().cmp(&b.len()))),
                }
            }
            _ => Err(Error::new(format!("'{}' and '{}' have no order", self.type_name(), other.type_name()))),
        }
    }

    /// Python's `in`.
    pub fn contains(&self, item: &Self) -> Result<bool> {
        match self {
            Self::Str(text) => match item {
                Self::Str(item) => Ok(text.text.contains(&*item.text)),
                Self::Undefined(message) => Err(Error::new(&**message)),
                _ => Err(Error::new(format!("'in <string>' needs a string, not {}", item.type_name()))),
            },
            Self::Dict(dict) => Ok(dict.get(item).is_some()),
            _ => Ok(self.items()?.iter().any(|found| found.equals(item))),
        }
    }

    /// Python's `str`.
    pub fn to_text(&self) -> Rc<str> {
        match self {
            Self::Str(text) => text.text.clone(),
            Self::Undefined(_) => "".into(),
            _ => {
                let mut out = String::new();
                self.write_repr(&mut out);
                out.into()
            }
        }
    }

    /// Python's `repr`.
    pub fn repr(&self) -> String {
        let mut out = String::new();
        self.write_repr(&mut out);
        out
    }

    fn write_repr(&self, out: &mut String) {
        match self {
            Self::Undefined(_) => out.push_str("Undefined"),
            Self::None => out.push_str("None"),
            Self::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
            Self::Int(number) => out.push_str(&format!("{number}")),
            Self::Float(number) => out.push_str(&float_repr(*number)),
            Self::Str(text) if text.safe => out.push_str(&format!("Markup({})", str_repr(&text.text))),
            Self::Str(text) => out.push_str(&str_repr(&text.text)),
            Self::List(list) => write_items(out, "[", &list.items, "]"),
            Self::Tuple(tuple) if tuple.items.len() == 1 => write_items(out, "(", &tuple.items, ",)"),
            Self::Tuple(tuple) => write_items(out, "(", &tuple.items, ")"),
            Self::Dict(dict) => write_dict(out, dict),
            Self::View(view) => match &view.kind {
                ViewKind::Range(call) => out.push_str(call),
                _ => write_items(out, &format!("{}([", self.type_name()), &view.items, "])"),
            },
            Self::Namespace(attributes) => {
                out.push_str("<Namespace ");
                write_dict(out, &attributes.borrow());
                out.push('>');
            }
            Self::Loop(state) => out.push_str(&format!("<LoopContext {}/{}>", state.at.get() + 1, state.items.len())),
            Self::Callable(callable) => match &**callable {
                Callable::Macro(macro_, _) => out.push_str(&format!("<Macro {}>", str_repr(&macro_.name))),
                _ => out.push_str("<function>"),
            },
            Self::Iter(_) => out.push_str("<generator object>"),
        }
    }
}

fn write_items(out: &mut String, open: &str, items: &[Value], close: &str) {
    out.push_str(open);
    for (at, item) in items.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        item.write_repr(out);
    }
    out.push_str(close);
}

fn write_dict(out: &mut String, dict: &Dict) {
    out.push('{');
    for (at, (key, value)) in dict.pairs.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        key.write_repr(out);
        out.push_str(": ");
        value.write_repr(out);
    }
    out.push('}');
}
