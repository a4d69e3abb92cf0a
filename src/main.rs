//! The binary: `kmsproxy --help` says the rest.

fn main() -> std::process::ExitCode {
    kmsproxy::cli::main()
}
