//! `orpo-serve`: see [`orpo_serve::cli`].

fn main() -> std::process::ExitCode {
    orpo_serve::cli::main(std::env::args_os())
}
