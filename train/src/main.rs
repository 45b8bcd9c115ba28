//! `orpo-train`; see [`orpo_train::cli`].

fn main() -> std::process::ExitCode {
    orpo_train::cli::main(std::env::args_os())
}
