fn main() -> std::process::ExitCode {
    kmsproxy::cli::main()
}
