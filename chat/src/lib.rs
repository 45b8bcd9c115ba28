//! How messages become tokens and tokens become text: the one thing on which trainer and server must agree to the byte.
//!
//! - [`ChatTemplate`] renders messages with a Hugging Face chat template (jinja, as `transformers` renders it).
//! - [`ChatTokenizer`] is a tokenizer directory: template, `tokenizer.json`, special tokens; messages to ids and back.
//! - [`StreamDecoder`] turns ids into text one at a time and never emits half a character.
//!
//! ```
//! use orpo_chat::{ChatTemplate, Message, RenderOptions};
//!
//! let template = ChatTemplate::new(
//!     "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot:{% endif %}",
//! )?;
//! let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
//! let text = template.render(&[Message::user("hello")], options, &Default::default())?;
//! assert_eq!(text, "user: hello\nbot:");
//! # Ok::<(), orpo_chat::ChatError>(())
//! ```

mod decode;
mod error;
mod files;
mod jinja;
mod message;
mod portable;
mod probe;
mod template;
mod templates;
mod tokenizer;
mod vocabulary;

pub use decode::StreamDecoder;
pub use error::ChatError;
pub use files::{is_tokenizer_file, tokenizer_files};
pub use message::{ContentError, Message, content_text};
pub use portable::PortableTemplates;
pub use probe::GenerationPromptFault;
pub use template::{ChatTemplate, RESERVED_VARIABLES, RenderOptions, SpecialTokens};
pub use tokenizer::ChatTokenizer;
