//! Tokens to a tree, by jinja's grammar.

use std::sync::Arc;

use super::ast::{Args, Binary, Comparison, Expr, Filter, For, Macro, Stmt, StmtKind, Target};
use super::error::{Error, Result};
use super::lexer::{Kind, Token, tokens};
use super::{checks, filters};

/// How deep brackets and blocks nest, and how many operators, attributes, calls and filters a tag has: the tree of an
/// expression is dropped recursively, and they may all lie in one another.
const MAX_DEPTH: usize = 100;
const MAX_LINKS: usize = 2_000;

/// The statements of `source`.
///
/// # Errors
/// What does not follow the grammar, and filters, tests and statements that are not known.
pub fn parse(source: &str) -> Result<Vec<Stmt>> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, depth: 0, links: 0, loops: 0, macros: Vec::new() };
    parser.statements(&[])
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// How many operators, attributes, calls and filters the current tag has.
    links: usize,
    /// How many loops are open in the current macro.
    loops: usize,
    /// For each open macro, whether it spoke of `varargs`, `kwargs` and `caller`.
    macros: Vec<[bool; 3]>,
}

const IMPLICIT: [&str; 3] = ["varargs", "kwargs", "caller"];

impl Parser {
    fn kind(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    fn line(&self) -> usize {
        self.tokens[self.at].line
    }

    fn next(&mut self) -> Kind {
        let kind = self.kind().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        kind
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::new(message).at(self.line()))
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match self.kind() {
            Kind::Name(name) => format!("`{name}`"),
            Kind::Op(op) => format!("`{op}`"),
            Kind::Str(_) => "a string".into(),
            Kind::Int(_) | Kind::Float(_) => "a number".into(),
            Kind::End => "the end of the template".into(),
            _ => "the end of the tag".into(),
        };
        self.fail(format!("expected {expected}, found {found}"))
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.kind(), Kind::Op(found) if *found == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(found) if found == name)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.next();
        }
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(&format!("`{op}`")) }
    }

    fn name(&mut self) -> Result<String> {
        let Kind::Name(name) = self.kind() else { return self.unexpected("a name") };
        let name = name.clone();
        self.next();
        Ok(name)
    }

    fn expect_end(&mut self, end: &Kind) -> Result<()> {
        if self.kind() == end {
            self.next();
            return Ok(());
        }
        self.unexpected("the end of the tag")
    }

    /// Runs `parse` one level deeper.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return self.fail("it nests too deeply");
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Statements up to a tag that begins with one of `ends`, whose name is the current token then.
    fn statements(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            self.links = 0;
            let kind = match self.next() {
                Kind::Data(text) => StmtKind::Data(text),
                Kind::VariableBegin => {
                    let value = self.tuple()?;
                    self.expect_end(&Kind::VariableEnd)?;
                    StmtKind::Output(value)
                }
                Kind::BlockBegin => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let statement = self.nested(Self::statement)?;
                    self.expect_end(&Kind::BlockEnd)?;
                    statement
                }
                _ if ends.is_empty() => return Ok(body),
                _ => return self.fail(format!("expected `{}` before the end of the template", ends.join("` or `"))),
            };
            body.push(Stmt { line, kind });
        }
    }

    /// The rest of an opening tag, and the statements up to one of `ends`.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        self.expect_end(&Kind::BlockEnd)?;
        self.statements(ends)
    }

    /// As [`Parser::body`], and passes the name of the closing tag.
    fn whole_body(&mut self, end: &str) -> Result<Vec<Stmt>> {
        let body = self.body(&[end])?;
        self.next();
        Ok(body)
    }

    fn statement(&mut self) -> Result<StmtKind> {
        let name = self.name()?;
        match name.as_str() {
            "for" => self.for_loop(),
            "if" => self.if_statement(),
            "set" => self.set(),
            "macro" => self.macro_definition(),
            "with" => self.with(),
            "call" => {
                let parameters = if self.is_op("(") { self.signature()? } else { Vec::new() };
                let call = self.expression()?;
                if !matches!(call, Expr::Call(..)) {
                    return self.fail("expected a call");
                }
                let caller = self.macro_body("caller".into(), parameters, "endcall")?;
                Ok(StmtKind::Call(call, Arc::new(caller)))
            }
            "filter" => {
                let filters = self.filters_of_block(false)?;
                Ok(StmtKind::Filter(filters, self.whole_body("endfilter")?))
            }
            "generation" => Ok(StmtKind::Scoped(self.whole_body("endgeneration")?)),
            "block" => {
                self.name()?;
                let body = self.whole_body("endblock")?;
                if matches!(self.kind(), Kind::Name(_)) {
                    self.next();
                }
                Ok(StmtKind::Scoped(body))
            }
            "break" | "continue" if self.loops == 0 => self.fail(format!("`{name}` outside of a loop")),
            "break" => Ok(StmtKind::Break),
            "continue" => Ok(StmtKind::Continue),
            "include" | "import" | "from" | "extends" => {
                self.fail(format!("`{name}` is not supported: a chat template has no other templates"))
            }
            _ => self.fail(format!("the statement `{name}` is not known")),
        }
    }

    fn for_loop(&mut self) -> Result<StmtKind> {
        let target = self.target(&["in"], false)?;
        if !self.skip_name("in") {
            return self.unexpected("`in`");
        }
        let iter = self.tuple_of(Self::without_condition, &["recursive"], false)?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let body = self.body(&["endfor", "else"]);
        self.loops -= 1;
        let body = body?;
        let otherwise = if self.skip_name("else") { self.body(&["endfor"])? } else { Vec::new() };
        self.next();
        Ok(StmtKind::For(Arc::new(For { target, iter, condition, recursive, body, otherwise })))
    }

    fn if_statement(&mut self) -> Result<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple_of(Self::without_condition, &[], false)?;
            branches.push((condition, self.body(&["elif", "else", "endif"])?));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = if self.skip_name("else") { self.body(&["endif"])? } else { Vec::new() };
            self.next();
            return Ok(StmtKind::If(branches, otherwise));
        }
    }

    fn set(&mut self) -> Result<StmtKind> {
        let target = self.target(&[], true)?;
        if self.skip_op("=") {
            return Ok(StmtKind::Set(target, self.tuple()?));
        }
        let filters = self.filters_of_block(true)?;
        Ok(StmtKind::SetBlock(target, filters, self.whole_body("endset")?))
    }

    fn with(&mut self) -> Result<StmtKind> {
        let mut values = Vec::new();
        while *self.kind() != Kind::BlockEnd {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target(&[], false)?;
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        Ok(StmtKind::With(values, self.whole_body("endwith")?))
    }

    fn macro_definition(&mut self) -> Result<StmtKind> {
        let name = self.name()?;
        let parameters = self.signature()?;
        Ok(StmtKind::Macro(Arc::new(self.macro_body(name, parameters, "endmacro")?)))
    }

    fn macro_body(&mut self, name: String, parameters: Vec<(String, Option<Expr>)>, end: &str) -> Result<Macro> {
        self.macros.push([false; 3]);
        let loops = std::mem::take(&mut self.loops);
        let body = self.whole_body(end);
        self.loops = loops;
        let [takes_varargs, takes_kwargs, takes_caller] = self.macros.pop().expect("it was pushed");
        Ok(Macro { name, parameters, body: body?, takes_varargs, takes_kwargs, takes_caller })
    }

    fn signature(&mut self) -> Result<Vec<(String, Option<Expr>)>> {
        self.expect_op("(")?;
        let mut parameters: Vec<(String, Option<Expr>)> = Vec::new();
        while !self.is_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.name()?;
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return self.fail("a parameter without default follows one with a default");
            }
            parameters.push((name, default));
        }
        self.expect_op(")")?;
        Ok(parameters)
    }

    /// A target of an assignment, which ends before one of `ends`.
    fn target(&mut self, ends: &[&str], with_attribute: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            let ended = self.is_op("=") || self.is_op(")") || *self.kind() == Kind::BlockEnd;
            if !targets.is_empty() && (ended || ends.iter().any(|end| self.is_name(end))) {
                break;
            }
            if self.skip_op("(") {
                targets.push(self.nested(|parser| parser.target(&[], false))?);
                self.expect_op(")")?;
            } else {
                let name = self.name()?;
                if ["true", "false", "none", "True", "False", "None"].contains(&name.as_str()) {
                    return self.fail(format!("cannot assign to `{name}`"));
                }
                let attribute = with_attribute && self.skip_op(".");
                targets.push(if attribute { Target::Attribute(name, self.name()?) } else { Target::Name(name) });
            }
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        if is_tuple { Ok(Target::Tuple(targets)) } else { Ok(targets.pop().expect("at least one was read")) }
    }

    /// The filters of `{% filter f %}` or, `piped`, of `{% set x | f %}`.
    fn filters_of_block(&mut self, piped: bool) -> Result<Vec<Filter>> {
        let mut filters = Vec::new();
        if !piped {
            filters.push(self.filter()?);
        }
        while self.skip_op("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    /// Expressions with commas between them are a tuple.
    fn tuple(&mut self) -> Result<Expr> {
        self.tuple_of(Self::expression, &[], false)
    }

    fn tuple_of(&mut self, parse: fn(&mut Self) -> Result<Expr>, ends: &[&str], in_parentheses: bool) -> Result<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let ended = matches!(self.kind(), Kind::VariableEnd | Kind::BlockEnd) || self.is_op(")");
            if ended || ends.iter().any(|end| self.is_name(end)) {
                break;
            }
            items.push(parse(self)?);
            if self.skip_op(",") {
                is_tuple = true;
            } else {
                break;
            }
        }
        match items.len() {
            0 if !in_parentheses => self.unexpected("an expression"),
            1 if !is_tuple => Ok(items.pop().expect("there is one")),
            _ => Ok(Expr::Tuple(items)),
        }
    }

    fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let mut value = parser.or()?;
            while parser.skip_name("if") {
                parser.link()?;
                let test = parser.or()?;
                let otherwise = if parser.skip_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                value = Expr::If(Box::new([test, value]), otherwise);
            }
            Ok(value)
        })
    }

    /// An expression after which `if` begins something else.
    fn without_condition(&mut self) -> Result<Expr> {
        self.nested(Self::or)
    }

    fn link(&mut self) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS { self.fail("an expression is too long") } else { Ok(()) }
    }

    fn or(&mut self) -> Result<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            self.link()?;
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            self.link()?;
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        if self.skip_name("not") {
            return self.nested(|parser| Ok(Expr::Not(Box::new(parser.not()?))));
        }
        let first = self.arithmetic(0)?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.kind() {
                Kind::Op("==") => Comparison::Eq,
                Kind::Op("!=") => Comparison::Ne,
                Kind::Op("<") => Comparison::Lt,
                Kind::Op("<=") => Comparison::Le,
                Kind::Op(">") => Comparison::Gt,
                Kind::Op(">=") => Comparison::Ge,
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name) if name == "not" => {
                    let after = self.tokens.get(self.at + 1).map(|token| &token.kind);
                    if !matches!(after, Some(Kind::Name(name)) if name == "in") {
                        break;
                    }
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((comparison, self.arithmetic(0)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    /// The operators of `level` and of those that bind tighter: sums, concatenations, products, powers.
    fn arithmetic(&mut self, level: usize) -> Result<Expr> {
        const LEVELS: [&[(&str, Option<Binary>)]; 4] = [
            &[("+", Some(Binary::Add)), ("-", Some(Binary::Sub))],
            &[("~", None)],
            &[
                ("*", Some(Binary::Mul)),
                ("/", Some(Binary::Div)),
                ("//", Some(Binary::FloorDiv)),
                ("%", Some(Binary::Mod)),
            ],
            &[("**", Some(Binary::Pow))],
        ];
        let Some(operators) = LEVELS.get(level) else { return self.unary(true) };
        let mut left = self.arithmetic(level + 1)?;
        let mut is_chain = false;
        while let Some((_, operator)) = operators.iter().find(|(op, _)| self.is_op(op)) {
            self.link()?;
            self.next();
            let right = self.arithmetic(level + 1)?;
            left = match (operator, left) {
                (Some(operator), left) => Expr::Binary(*operator, Box::new(left), Box::new(right)),
                (None, Expr::Concat(mut parts)) if is_chain => {
                    parts.push(right);
                    Expr::Concat(parts)
                }
                (None, left) => Expr::Concat(vec![left, right]),
            };
            is_chain = true;
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let value = if self.skip_op("-") {
            Expr::Neg(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip_op("+") {
            Expr::Pos(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if with_filters { self.filtered(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expr> {
        match self.kind() {
            Kind::Name(_) => {
                let name = self.name()?;
                Ok(match name.as_str() {
                    "true" | "True" => Expr::Bool(true),
                    "false" | "False" => Expr::Bool(false),
                    "none" | "None" => Expr::None,
                    _ => {
                        for spoken in &mut self.macros {
                            for (spoken, implicit) in spoken.iter_mut().zip(IMPLICIT) {
                                *spoken |= name == implicit;
                            }
                        }
                        Expr::Name(name)
                    }
                })
            }
            Kind::Str(_) => {
                let mut text = String::new();
                while let Kind::Str(part) = self.kind() {
                    text.push_str(part);
                    self.next();
                }
                Ok(Expr::Str(text.into()))
            }
            Kind::Int(number) => {
                let number = *number;
                self.next();
                Ok(Expr::Int(number))
            }
            Kind::Float(number) => {
                let number = *number;
                self.next();
                Ok(Expr::Float(number))
            }
            Kind::Op("(") => {
                self.next();
                let value = self.tuple_of(Self::expression, &[], true)?;
                self.expect_op(")")?;
                Ok(value)
            }
            Kind::Op("[") => {
                self.next();
                let items = self.items("]", Self::expression)?;
                Ok(Expr::List(items))
            }
            Kind::Op("{") => {
                self.next();
                let pair = |parser: &mut Self| -> Result<(Expr, Expr)> {
                    let key = parser.expression()?;
                    parser.expect_op(":")?;
                    Ok((key, parser.expression()?))
                };
                let items = self.items("}", pair)?;
                Ok(Expr::Dict(items))
            }
            _ => self.unexpected("an expression"),
        }
    }

    /// Items with commas between them, and the closing bracket.
    fn items<T>(&mut self, close: &str, parse: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_op(close) {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            if self.is_op(close) {
                break;
            }
            items.push(parse(self)?);
        }
        self.expect_op(close)?;
        Ok(items)
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            if self.skip_op(".") {
                value = match self.next() {
                    Kind::Name(name) => Expr::Attr(Box::new(value), name),
                    Kind::Int(index) => Expr::Item(Box::new(value), Box::new(Expr::Int(index))),
                    _ => return self.fail("expected a name or a number after `.`"),
                };
            } else if self.skip_op("[") {
                value = self.subscript(value)?;
            } else if self.is_op("(") {
                value = Expr::Call(Box::new(value), self.args()?);
            } else {
                return Ok(value);
            }
            self.link()?;
        }
    }

    /// What follows `[`.
    fn subscript(&mut self, of: Expr) -> Result<Expr> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0;
        loop {
            if self.is_op("]") {
                break;
            }
            if self.skip_op(":") {
                colons += 1;
                if colons > 2 {
                    return self.unexpected("`]`");
                }
                continue;
            }
            if parts[colons].is_some() {
                break;
            }
            parts[colons] = Some(self.expression()?);
        }
        if colons == 0 && self.is_op(",") {
            let mut items: Vec<Expr> = parts[0].take().into_iter().collect();
            while self.skip_op(",") && !self.is_op("]") {
                items.push(self.expression()?);
            }
            parts[0] = Some(Expr::Tuple(items));
        }
        self.expect_op("]")?;
        if colons > 0 {
            return Ok(Expr::Slice(Box::new(of), Box::new(parts)));
        }
        let [item, ..] = parts;
        match item {
            Some(item) => Ok(Expr::Item(Box::new(of), Box::new(item))),
            None => self.fail("expected an expression between `[` and `]`"),
        }
    }

    fn args(&mut self) -> Result<Args> {
        self.expect_op("(")?;
        let mut args = Args::default();
        let mut first = true;
        while !self.is_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            first = false;
            if self.skip_op("**") {
                args.double_star = Some(Box::new(self.expression()?));
                continue;
            }
            if self.skip_op("*") {
                args.star = Some(Box::new(self.expression()?));
                continue;
            }
            let after = self.tokens.get(self.at + 1).map(|token| &token.kind);
            if matches!(self.kind(), Kind::Name(_)) && matches!(after, Some(Kind::Op("="))) {
                let name = self.name()?;
                self.next();
                let value = self.expression()?;
                args.named.push((name, value));
            } else if args.named.is_empty() && args.double_star.is_none() {
                args.positional.push(self.expression()?);
            } else {
                return self.fail("an argument without a name follows one with a name");
            }
        }
        self.expect_op(")")?;
        Ok(args)
    }

    fn filtered(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            if self.skip_op("|") {
                value = Expr::Filter(Box::new(value), self.filter()?);
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.is_op("(") {
                value = Expr::Call(Box::new(value), self.args()?);
            } else {
                return Ok(value);
            }
            self.link()?;
        }
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.skip_op(".") {
            name = name + "." + &self.name()?;
        }
        Ok(name)
    }

    fn filter(&mut self) -> Result<Filter> {
        let name = self.dotted_name()?;
        if !filters::is_known(&name) {
            return self.fail(format!("the filter `{name}` is not known"));
        }
        let args = if self.is_op("(") { self.args()? } else { Args::default() };
        Ok(Filter { name, args })
    }

    fn test(&mut self, value: Expr) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        if !checks::is_known(&name) {
            return self.fail(format!("the test `{name}` is not known"));
        }
        let ends = ["else", "or", "and"];
        let args = if self.is_op("(") {
            self.args()?
        } else {
            let begins = match self.kind() {
                Kind::Name(name) if name == "is" => return self.fail("tests with `is` cannot follow one another"),
                Kind::Name(name) => !ends.contains(&name.as_str()),
                Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Op("(" | "[" | "{") => true,
                _ => false,
            };
            let mut args = Args::default();
            if begins {
                let argument = self.primary()?;
                args.positional.push(self.postfix(argument)?);
            }
            args
        };
        let test = Expr::Test(Box::new(value), name, args);
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }
}
