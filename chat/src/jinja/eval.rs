//! Runs a template.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use chrono::{DateTime, Local};

use super::access;
use super::args::CallArgs;
use super::ast::{Args, Comparison, Expr, Filter, For, Macro, Stmt, StmtKind, Target};
use super::error::{Error, Result};
use super::value::{BYTES_PER_STEP, Callable, Dict, MAX_DEPTH, Value};
use super::{checks, filters, functions, methods, operators};

/// A run of a template, with what it may still spend.
pub struct Run {
    /// Steps that are left.
    steps: u64,
    depth: usize,
    max_depth: usize,
    pub now: fn() -> DateTime<Local>,
}

/// Variables, and where those are that are not among them.
pub struct Scope {
    variables: RefCell<HashMap<String, Value>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub fn new(parent: Option<&Rc<Self>>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), parent: parent.cloned() })
    }

    pub fn set(&self, name: &str, value: Value) {
        self.variables.borrow_mut().insert(name.into(), value);
    }

    fn get(&self, name: &str) -> Option<Value> {
        let own = self.variables.borrow().get(name).cloned();
        own.or_else(|| self.parent.as_ref().and_then(|parent| parent.get(name)))
    }

    /// Forgets all variables. Macros hold the scope that holds them.
    pub fn leave(&self) {
        let variables = std::mem::take(&mut *self.variables.borrow_mut());
        drop(variables);
    }
}

/// The variable `loop`.
pub struct Loop {
    pub items: Vec<Value>,
    pub at: Cell<usize>,
    /// How many recursive loops this one is in.
    pub level: usize,
    pub changed: RefCell<Option<Vec<Value>>>,
    recursive: Option<(Arc<For>, Rc<Scope>)>,
}

/// How statements ended.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl Run {
    pub fn new(steps: u64, max_depth: usize, now: fn() -> DateTime<Local>) -> Self {
        Self { steps, depth: 0, max_depth, now }
    }

    /// Renders `body` with `variables`.
    pub fn render(&mut self, body: &[Stmt], variables: Vec<(String, Value)>) -> Result<String> {
        let globals = Scope::new(None);
        for name in functions::NAMES {
            globals.set(name, Value::callable(Callable::Function(name)));
        }
        let scope = Scope::new(Some(&globals));
        for (name, value) in variables {
            scope.set(&name, value);
        }
        let mut out = String::new();
        let done = self.statements(body, &scope, &mut out);
        scope.leave();
        done.map(|_| out)
    }

    /// Pays for a step and for `bytes` of text.
    pub fn spend(&mut self, bytes: usize) -> Result<()> {
        self.pay(1 + (bytes / BYTES_PER_STEP) as u64)
    }

    /// Pays for reading all of `value`.
    pub fn read(&mut self, value: &Value) -> Result<()> {
        self.pay(value.weight())
    }

    /// Pays for reading all of `value` and writing up to `bytes` for each of its parts.
    pub fn read_as(&mut self, value: &Value, bytes: usize) -> Result<()> {
        self.pay(value.weight().saturating_mul(1 + (bytes / BYTES_PER_STEP) as u64))
    }

    /// Pays for a search for `key` in `dict`.
    pub fn look_up(&mut self, dict: &Dict, key: &Value) -> Result<()> {
        self.pay((1 + dict.pairs.len() as u64 / 8).saturating_mul(key.weight()))
    }

    fn pay(&mut self, steps: u64) -> Result<()> {
        self.steps = self
            .steps
            .checked_sub(steps)
            .ok_or_else(|| Error::new("the template takes too many steps or writes too much; does it end?"))?;
        Ok(())
    }

    /// `value` as text.
    pub fn text(&mut self, value: &Value) -> Result<Rc<str>> {
        if value.as_str().is_none() {
            self.read(value)?;
        }
        Ok(value.to_text())
    }

    /// Puts a pair into `dict`.
    pub fn insert(&mut self, dict: &mut Dict, key: Value, value: Value) -> Result<()> {
        let key = hashable(key)?;
        self.look_up(dict, &key)?;
        dict.insert(key, value);
        Ok(())
    }

    /// Compares two values.
    pub fn compares(&mut self, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
        match (comparison, right) {
            (Comparison::In | Comparison::NotIn, Value::Dict(dict)) => self.look_up(dict, left)?,
            (Comparison::In | Comparison::NotIn, _) => self.read(right)?,
            _ => self.pay(left.weight().min(right.weight()))?,
        }
        operators::compare(comparison, left, right)
    }

    fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == self.max_depth {
            return Err(Error::too_deep());
        }
        self.depth += 1;
        let done = run(self);
        self.depth -= 1;
        done
    }

    fn write(&mut self, out: &mut String, text: &str) -> Result<()> {
        self.spend(text.len())?;
        out.push_str(text);
        Ok(())
    }

    /// `value`, unless it nests too deeply.
    pub fn shallow(&self, value: Value) -> Result<Value> {
        match &value {
            Value::Namespace(_) | Value::Loop(_) | Value::Callable(_) => Ok(value),
            _ if value.depth() > MAX_DEPTH => Err(Error::new("a value nests too deeply")),
            _ => Ok(value),
        }
    }

    fn statements(&mut self, body: &[Stmt], scope: &Rc<Scope>, out: &mut String) -> Result<Flow> {
        for statement in body {
            self.spend(0)?;
            let flow = self.deeper(|run| run.statement(&statement.kind, scope, out));
            let flow = flow.map_err(|error| error.at(statement.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &StmtKind, scope: &Rc<Scope>, out: &mut String) -> Result<Flow> {
        match statement {
            StmtKind::Data(text) => self.write(out, text)?,
            StmtKind::Output(value) => {
                let value = self.eval(value, scope)?;
                let text = self.text(&value)?;
                self.write(out, &text)?;
            }
            StmtKind::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.eval(condition, scope)?.is_true() {
                        return self.statements(body, scope, out);
                    }
                }
                return self.statements(otherwise, scope, out);
            }
            StmtKind::For(node) => {
                let items = self.eval(&node.iter, scope)?.items()?;
                self.spend(items.len() * 16)?;
                self.for_loop(node, items, scope, 0, out)?;
            }
            StmtKind::Set(target, value) => {
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope, scope)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let text = self.captured(body, scope)?;
                let value = self.filtered(filters, text.into(), scope)?;
                self.assign(target, value, scope, scope)?;
            }
            StmtKind::With(values, body) => {
                let inner = Scope::new(Some(scope));
                for (target, value) in values {
                    let value = self.eval(value, scope)?;
                    self.assign(target, value, &inner, scope)?;
                }
                return self.scoped(body, inner, out);
            }
            StmtKind::Filter(filters, body) => {
                let text = self.captured(body, scope)?;
                let value = self.filtered(filters, text.into(), scope)?;
                let text = self.text(&value)?;
                self.write(out, &text)?;
            }
            StmtKind::Macro(node) => {
                scope.set(&node.name, Value::callable(Callable::Macro(node.clone(), scope.clone())));
            }
            StmtKind::Call(call, caller) => {
                let Expr::Call(function, args) = call else { unreachable!("the parser checked it") };
                let function = self.eval(function, scope)?;
                let mut args = self.args(args, scope)?;
                let caller = Value::callable(Callable::Macro(caller.clone(), scope.clone()));
                args.named.push(("caller".into(), caller));
                let value = self.call(&function, args)?;
                let text = self.text(&value)?;
                self.write(out, &text)?;
            }
            StmtKind::Scoped(body) => return self.scoped(body, Scope::new(Some(scope)), out),
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn scoped(&mut self, body: &[Stmt], scope: Rc<Scope>, out: &mut String) -> Result<Flow> {
        let flow = self.statements(body, &scope, out);
        scope.leave();
        flow
    }

    /// The text that `body` writes.
    fn captured(&mut self, body: &[Stmt], scope: &Rc<Scope>) -> Result<String> {
        let mut text = String::new();
        self.scoped(body, Scope::new(Some(scope)), &mut text)?;
        Ok(text)
    }

    fn for_loop(
        &mut self,
        node: &Arc<For>,
        items: Vec<Value>,
        scope: &Rc<Scope>,
        level: usize,
        out: &mut String,
    ) -> Result<()> {
        let mut kept = items;
        if let Some(condition) = &node.condition {
            let all = std::mem::take(&mut kept);
            for item in all {
                self.spend(0)?;
                let inner = Scope::new(Some(scope));
                self.assign(&node.target, item.clone(), &inner, scope)?;
                if self.eval(condition, &inner)?.is_true() {
                    kept.push(item);
                }
                inner.leave();
            }
        }
        if kept.is_empty() {
            self.scoped(&node.otherwise, Scope::new(Some(scope)), out)?;
            return Ok(());
        }
        let recursive = node.recursive.then(|| (node.clone(), scope.clone()));
        let state = Loop { items: kept, at: Cell::new(0), level, changed: RefCell::default(), recursive };
        let state = Rc::new(state);
        for (at, item) in state.items.iter().enumerate() {
            self.spend(0)?;
            state.at.set(at);
            let inner = Scope::new(Some(scope));
            inner.set("loop", Value::Loop(state.clone()));
            self.assign(&node.target, item.clone(), &inner, scope)?;
            if self.scoped(&node.body, inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    /// Puts `value` into `target` in the scope `into`; namespaces are looked for in `from`.
    fn assign(&mut self, target: &Target, value: Value, into: &Rc<Scope>, from: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => into.set(name, value),
            Target::Attribute(name, attribute) => {
                let Some(Value::Namespace(attributes)) = from.get(name) else {
                    return Err(Error::new(format!("`{name}` is not a namespace, so nothing can be set in it")));
                };
                if attribute.starts_with('_') {
                    return Err(Error::new(format!("`{attribute}`: names in a namespace cannot begin with `_`")));
                }
                if value.depth() >= MAX_DEPTH {
                    return Err(Error::new("a value nests too deeply for a namespace"));
                }
                attributes.borrow_mut().insert(attribute.as_str().into(), value);
            }
            Target::Tuple(targets) => {
                let items = value.items()?;
                if items.len() != targets.len() {
                    let (found, wanted) = (items.len(), targets.len());
                    return Err(Error::new(format!("cannot put {found} values into {wanted} variables")));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, into, from)?;
                }
            }
        }
        Ok(())
    }

    fn filtered(&mut self, filters: &[Filter], mut value: Value, scope: &Rc<Scope>) -> Result<Value> {
        for filter in filters {
            let args = self.args(&filter.args, scope)?;
            value = filters::apply(self, &filter.name, value, args)?;
            value = self.shallow(value)?;
        }
        Ok(value)
    }

    pub fn eval(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.spend(0)?;
        self.deeper(|run| run.eval_inner(expr, scope))
    }

    fn eval_inner(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        Ok(match expr {
            Expr::None => Value::None,
            Expr::Bool(value) => Value::Bool(*value),
            Expr::Int(number) => Value::Int(*number),
            Expr::Float(number) => Value::Float(*number),
            Expr::Str(text) => Value::from(&**text),
            Expr::Name(name) => scope.get(name).unwrap_or_else(|| Value::undefined(format!("`{name}` is undefined"))),
            Expr::List(items) => {
                let list = Value::list(self.all(items, scope)?);
                self.shallow(list)?
            }
            Expr::Tuple(items) => {
                let tuple = Value::tuple(self.all(items, scope)?);
                self.shallow(tuple)?
            }
            Expr::Dict(pairs) => {
                let mut dict = Dict::default();
                for (key, value) in pairs {
                    let key = self.eval(key, scope)?;
                    let value = self.eval(value, scope)?;
                    self.insert(&mut dict, key, value)?;
                }
                self.shallow(Value::Dict(Rc::new(dict)))?
            }
            Expr::Attr(of, name) => {
                let of = self.eval(of, scope)?;
                if let Value::Dict(dict) = &of {
                    self.spend(dict.pairs.len())?;
                }
                access::attribute(&of, name)?
            }
            Expr::Item(of, item) => {
                let of = self.eval(of, scope)?;
                let item = self.eval(item, scope)?;
                match &of {
                    Value::Dict(dict) => self.look_up(dict, &item)?,
                    Value::Str(text) => self.spend(text.text.len())?,
                    _ => self.read(&item)?,
                }
                access::item(&of, &item)?
            }
            Expr::Slice(of, parts) => self.slice(of, parts, scope)?,
            Expr::Call(function, args) => {
                let function = self.eval(function, scope)?;
                let args = self.args(args, scope)?;
                let value = self.call(&function, args)?;
                self.shallow(value)?
            }
            Expr::Filter(of, filter) => {
                let of = self.eval(of, scope)?;
                self.filtered(std::slice::from_ref(filter), of, scope)?
            }
            Expr::Test(of, name, args) => {
                let of = self.eval(of, scope)?;
                let args = self.args(args, scope)?;
                Value::Bool(checks::check(self, name, &of, args)?)
            }
            Expr::Not(of) => Value::Bool(!self.eval(of, scope)?.is_true()),
            Expr::Neg(of) => operators::negative(&self.eval(of, scope)?)?,
            Expr::Pos(of) => operators::positive(self.eval(of, scope)?)?,
            Expr::And(left, right) => {
                let left = self.eval(left, scope)?;
                if left.is_true() { self.eval(right, scope)? } else { left }
            }
            Expr::Or(left, right) => {
                let left = self.eval(left, scope)?;
                if left.is_true() { left } else { self.eval(right, scope)? }
            }
            Expr::Binary(operator, left, right) => {
                let left = self.eval(left, scope)?;
                let right = self.eval(right, scope)?;
                operators::binary(self, *operator, &left, &right)?
            }
            Expr::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    let part = self.eval(part, scope)?;
                    let part = self.text(&part)?;
                    self.write(&mut text, &part)?;
                }
                text.into()
            }
            Expr::Compare(first, rest) => self.compare(first, rest, scope)?,
            Expr::If(parts, otherwise) => {
                let [test, then] = &**parts;
                if self.eval(test, scope)?.is_true() {
                    self.eval(then, scope)?
                } else if let Some(otherwise) = otherwise {
                    self.eval(otherwise, scope)?
                } else {
                    Value::undefined("the inline if has no else")
                }
            }
        })
    }

    fn all(&mut self, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        items.iter().map(|item| self.eval(item, scope)).collect()
    }

    fn slice(&mut self, of: &Expr, parts: &[Option<Expr>; 3], scope: &Rc<Scope>) -> Result<Value> {
        let of = self.eval(of, scope)?;
        let mut bounds = [None; 3];
        for (bound, part) in bounds.iter_mut().zip(parts) {
            let value = part.as_ref().map(|part| self.eval(part, scope)).transpose()?;
            *bound = match value {
                None | Some(Value::None) => None,
                Some(value) => Some(value.as_int().ok_or_else(|| Error::new("a slice needs whole numbers"))?),
            };
        }
        self.spend(of.len().unwrap_or(0))?;
        access::slice(&of, bounds)
    }

    fn compare(&mut self, first: &Expr, rest: &[(Comparison, Expr)], scope: &Rc<Scope>) -> Result<Value> {
        let mut left = self.eval(first, scope)?;
        for (comparison, right) in rest {
            let right = self.eval(right, scope)?;
            if !self.compares(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn args(&mut self, args: &Args, scope: &Rc<Scope>) -> Result<CallArgs> {
        let mut values = CallArgs { positional: self.all(&args.positional, scope)?, named: Vec::new() };
        if let Some(star) = &args.star {
            values.positional.extend(self.eval(star, scope)?.items()?);
        }
        for (name, value) in &args.named {
            values.named.push((name.clone(), self.eval(value, scope)?));
        }
        if let Some(double_star) = &args.double_star {
            let Value::Dict(dict) = self.eval(double_star, scope)? else {
                return Err(Error::new("`**` needs a mapping"));
            };
            for (name, value) in &dict.pairs {
                values.named.push((name.to_text().to_string(), value.clone()));
            }
        }
        Ok(values)
    }

    pub fn call(&mut self, function: &Value, args: CallArgs) -> Result<Value> {
        match function {
            Value::Undefined(message) => Err(Error::new(&**message)),
            Value::Loop(state) => self.recurse(state, args),
            Value::Callable(callable) => match &**callable {
                Callable::Function(name) => functions::call(self, name, args),
                Callable::Method(receiver, name) => methods::call(self, receiver, name, args),
                Callable::Macro(node, scope) => self.deeper(|run| run.call_macro(node, scope, args)),
                Callable::Cycler(..) => Err(Error::new("a cycler cannot be called")),
                Callable::Joiner(separator, used) => {
                    Ok(if used.replace(true) { separator.clone() } else { Value::from("") })
                }
            },
            _ => Err(Error::new(format!("'{}' object is not callable", function.type_name()))),
        }
    }

    fn recurse(&mut self, state: &Loop, args: CallArgs) -> Result<Value> {
        let Some((node, scope)) = &state.recursive else {
            return Err(Error::new("the loop must be marked `recursive` to be called"));
        };
        let [items] = args.bind("loop", ["iterable"])?;
        let items = items.ok_or_else(|| Error::new("a recursive loop needs an iterable"))?.items()?;
        let mut text = String::new();
        self.deeper(|run| run.for_loop(node, items, scope, state.level + 1, &mut text))?;
        Ok(text.into())
    }

    fn call_macro(&mut self, node: &Macro, scope: &Rc<Scope>, mut args: CallArgs) -> Result<Value> {
        let name = &node.name;
        let inner = Scope::new(Some(scope));
        let mut positional = args.positional.into_iter();
        let mut values = Vec::new();
        for (parameter, _) in &node.parameters {
            let named = args.named.iter().position(|(name, _)| name == parameter);
            let value = match (positional.next(), named) {
                (Some(_), Some(_)) => {
                    return Err(Error::new(format!("the macro `{name}` got two values for `{parameter}`")));
                }
                (None, Some(at)) => Some(args.named.remove(at).1),
                (value, None) => value,
            };
            values.push(value);
        }
        let mut kwargs = Dict::default();
        for (key, value) in args.named {
            if key == "caller" && node.takes_caller {
                inner.set("caller", value);
            } else if node.takes_kwargs && key != "caller" {
                kwargs.insert(key.as_str().into(), value);
            } else {
                return Err(Error::new(format!("the macro `{name}` has no parameter `{key}`")));
            }
        }
        let rest: Vec<Value> = positional.collect();
        if !rest.is_empty() && !node.takes_varargs {
            let most = node.parameters.len();
            return Err(Error::new(format!("the macro `{name}` takes at most {most} arguments")));
        }
        if node.takes_varargs {
            inner.set("varargs", Value::tuple(rest));
        }
        if node.takes_kwargs {
            inner.set("kwargs", Value::Dict(Rc::new(kwargs)));
        }
        if node.takes_caller && inner.variables.borrow().get("caller").is_none() {
            inner.set("caller", Value::undefined("no caller was given"));
        }
        for ((parameter, default), value) in node.parameters.iter().zip(values) {
            let value = match (value, default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.eval(default, &inner)?,
                (None, None) => Value::undefined(format!("the parameter `{parameter}` was not given")),
            };
            inner.set(parameter, value);
        }
        let mut text = String::new();
        self.scoped(&node.body, inner, &mut text)?;
        Ok(text.into())
    }
}

/// `key`, if a dict can have it.
pub fn hashable(key: Value) -> Result<Value> {
    match &key {
        Value::List(_) | Value::Dict(_) | Value::Namespace(_) => {
            Err(Error::new(format!("unhashable type: '{}'", key.type_name())))
        }
        _ => Ok(key),
    }
}
