//! The binary: `kmsproxy --help` says the rest.

#[global_allocator]
static ALLOCATOR: kmsproxy::Allocator = kmsproxy::ALLOCATOR;

fn main() -> std::process::ExitCode {
    kmsproxy::cli::main()
}
