//! The command: all of it is in [`kmsproxy::cli`].

fn main() -> std::process::ExitCode {
    kmsproxy::cli::main()
}
