//! The command line: it is parsed into a [`Command`], or into a message about a mistake. Nothing here opens or measures
//! anything.

use crate::framing::Framing;
use std::time::Duration;

/// Shown for `--help` and after a mistake.
pub const USAGE: &str = "\
usage: rloop-loadgen load (--port PORT | --path PATH | --udp-port PORT) [options]
       rloop-loadgen arrivals (--port PORT | --path PATH) --rate R [options]
       rloop-loadgen calls (--port PORT | --path PATH) [options]
       rloop-loadgen serve [--port PORT] [--libssl FILE --chain FILE]

load: every connection sends a message, waits for its whole echo, checks it, and sends the next one
  --port, --path, --udp-port
                     TCP on 127.0.0.1, a UNIX stream socket, or UDP on 127.0.0.1 with one datagram for each message
  --connections N    the number of connections (1)
  --size BYTES       the size of a message (1024)
  --seconds S        how long to measure (1)
  --requests N       measure this number of requests instead
  --warmup S         how long to load the server before it is measured (0.2)
  --timeout S        the limit for everything together (60)
  --gated            print {\"warm\":true} after the warm-up and wait for a line on stdin; after the
                     result, keep the connections open until the next line
  --depth N          each connection has this number of messages under way (1); only without the following
  --tls              use TLS; the server's certificate is not verified
  --http             each message is the body of a POST request by HTTP/1.1, and of its answer
  --websocket        each message is a binary frame of a WebSocket
arrivals: messages are due at random times (Poisson), whether the server keeps up or not; each is sent on a
  connection that has none under way; a response time begins when the message was due; always gated
  --rate R           the mean number of messages a second
  --seed N           the seed of the random times (1)
  --connections, --size, --seconds, --warmup, --timeout, --http, --websocket as above
calls: every connection is made, has one message echoed, is closed, and begins again; always gated; without TLS it is
  closed by a reset
  --connections, --size, --seconds, --requests, --warmup, --timeout, --tls as above
  --resume           with --tls, resume the sessions of earlier connections
serve: an echo server on 127.0.0.1; prints {\"port\":N}; answers each line on stdin with the CPU time that it
  has used and its resident memory; ends when stdin is closed
  --libssl, --chain  use TLS: the OpenSSL to load, and a PEM file with a certificate chain and its key";

const NO_DATAGRAMS: &str = "TLS, HTTP, WebSockets, --depth and calls are not for --udp-port";

/// Where the server is; only `wire.rs` looks at it.
#[derive(Debug, PartialEq)]
pub enum Target {
    Tcp { port: u16 },
    Unix { path: String },
    Udp { port: u16 },
}

/// When a phase of load stops starting requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    Time(Duration),
    Requests(u64),
}

/// The options of `load`.
#[derive(Debug, PartialEq)]
pub struct Load {
    pub target: Target,
    pub connections: usize,
    pub size: usize,
    pub depth: usize,
    pub limit: Limit,
    pub warmup: Duration,
    pub timeout: Duration,
    pub gated: bool,
    pub tls: bool,
    pub framing: Framing,
}

/// The options of `arrivals`.
#[derive(Debug, PartialEq)]
pub struct Arrivals {
    pub target: Target,
    pub connections: usize,
    pub size: usize,
    pub framing: Framing,
    pub rate: f64,
    pub length: Duration,
    pub warmup: Duration,
    pub timeout: Duration,
    pub seed: u64,
}

/// The options of `calls`.
#[derive(Debug, PartialEq)]
pub struct Calls {
    pub target: Target,
    pub connections: usize,
    pub size: usize,
    pub limit: Limit,
    pub warmup: Duration,
    pub timeout: Duration,
    pub tls: bool,
    pub resume: bool,
}

/// What `serve` needs for TLS: the paths of libssl and of a certificate chain with its key.
#[derive(Debug, PartialEq)]
pub struct Tls {
    pub libssl: String,
    pub chain: String,
}

/// What the user asked for.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Load(Load),
    Arrivals(Arrivals),
    Calls(Calls),
    Serve { port: u16, tls: Option<Tls> },
}

/// Parses the arguments after the program's name.
pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    match args.next().as_deref() {
        Some("load") => load(args),
        Some("arrivals") => arrivals(args),
        Some("calls") => calls(args),
        Some("serve") => serve(args),
        Some("-h" | "--help") => Ok(Command::Help),
        Some(other) => Err(format!("unknown mode {other:?}")),
        None => Err("a mode is needed".to_owned()),
    }
}

fn load(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut targets = Vec::new();
    let mut load = Load {
        target: Target::Tcp { port: 0 },
        connections: 1,
        size: 1024,
        depth: 1,
        limit: Limit::Time(Duration::from_secs(1)),
        warmup: Duration::from_millis(200),
        timeout: Duration::from_secs(60),
        gated: false,
        tls: false,
        framing: Framing::Plain,
    };
    while let Some(option) = args.next() {
        match option.as_str() {
            "--port" => targets.push(Target::Tcp { port: value(&option, args.next())? }),
            "--path" => targets.push(Target::Unix { path: value(&option, args.next())? }),
            "--udp-port" => targets.push(Target::Udp { port: value(&option, args.next())? }),
            "--connections" => load.connections = value(&option, args.next())?,
            "--size" => load.size = value(&option, args.next())?,
            "--depth" => load.depth = value(&option, args.next())?,
            "--seconds" => load.limit = Limit::Time(seconds(&option, args.next())?),
            "--requests" => load.limit = Limit::Requests(value(&option, args.next())?),
            "--warmup" => load.warmup = seconds(&option, args.next())?,
            "--timeout" => load.timeout = seconds(&option, args.next())?,
            "--gated" => load.gated = true,
            "--tls" => load.tls = true,
            "--http" => load.framing = Framing::Http,
            "--websocket" => load.framing = Framing::WebSocket,
            "-h" | "--help" => return Ok(Command::Help),
            _ => return Err(format!("unknown option {option:?}")),
        }
    }
    if targets.len() > 1 {
        return Err("one of --port, --path and --udp-port, once".to_owned());
    }
    load.target = targets.pop().ok_or("--port, --path or --udp-port is needed")?;
    if [load.connections, load.size, load.depth].contains(&0) || load.limit == Limit::Requests(0) {
        return Err("--connections, --size, --depth and --requests must be at least 1".to_owned());
    }
    let is_plain = load.framing == Framing::Plain && !load.tls;
    if load.depth > 1 && !is_plain {
        return Err("--depth is neither for TLS nor for HTTP and WebSockets".to_owned());
    }
    if !(is_plain && load.depth == 1) && matches!(load.target, Target::Udp { .. }) {
        return Err(NO_DATAGRAMS.to_owned());
    }
    Ok(Command::Load(load))
}

fn arrivals(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut rate, mut seed, mut others) = (0.0, 1, Vec::new());
    while let Some(option) = args.next() {
        match option.as_str() {
            "--rate" => rate = value(&option, args.next())?,
            "--seed" => seed = value(&option, args.next())?,
            _ => others.push(option),
        }
    }
    let Load { target, connections, size, depth, limit, warmup, timeout, gated, tls, framing } =
        match load(others.into_iter())? {
            Command::Load(load) => load,
            other => return Ok(other),
        };
    let Limit::Time(length) = limit else { return Err("arrivals end by --seconds".to_owned()) };
    if gated || tls || depth > 1 || matches!(target, Target::Udp { .. }) {
        return Err("arrivals are always gated, one at a time, and neither by TLS nor by UDP".to_owned());
    }
    if !(rate > 0.0 && f64::is_finite(rate)) {
        return Err("--rate must be above 0".to_owned());
    }
    Ok(Command::Arrivals(Arrivals {
        target,
        connections,
        size,
        framing,
        rate,
        length,
        warmup,
        timeout,
        seed,
    }))
}

fn calls(args: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut resume = false;
    let others = args.filter(|option| {
        let found = option == "--resume";
        resume |= found;
        !found
    });
    let Load { target, connections, size, depth, limit, warmup, timeout, gated, tls, framing } =
        match load(others.collect::<Vec<_>>().into_iter())? {
            Command::Load(load) => load,
            other => return Ok(other),
        };
    if matches!(target, Target::Udp { .. }) {
        return Err(NO_DATAGRAMS.to_owned());
    }
    if gated || depth > 1 || framing != Framing::Plain {
        return Err("calls are always gated, and each has one message without a head".to_owned());
    }
    if resume && !tls {
        return Err("--resume is for --tls".to_owned());
    }
    Ok(Command::Calls(Calls { target, connections, size, limit, warmup, timeout, tls, resume }))
}

fn serve(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut port, mut libssl, mut chain) = (0, None, None);
    while let Some(option) = args.next() {
        match option.as_str() {
            "--port" => port = value(&option, args.next())?,
            "--libssl" => libssl = Some(value(&option, args.next())?),
            "--chain" => chain = Some(value(&option, args.next())?),
            "-h" | "--help" => return Ok(Command::Help),
            _ => return Err(format!("unknown option {option:?}")),
        }
    }
    let tls = match (libssl, chain) {
        (Some(libssl), Some(chain)) => Some(Tls { libssl, chain }),
        (None, None) => None,
        _ => return Err("--libssl and --chain, together".to_owned()),
    };
    Ok(Command::Serve { port, tls })
}

fn value<T: std::str::FromStr>(option: &str, text: Option<String>) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("{option} needs a value"))?;
    text.parse().map_err(|_| format!("{option}: {text:?} is not a valid value"))
}

fn seconds(option: &str, text: Option<String>) -> Result<Duration, String> {
    let number: f64 = value(option, text)?;
    Duration::try_from_secs_f64(number).map_err(|_| format!("{option}: {number} is not a valid time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn load_has_defaults() {
        let expected = Load {
            target: Target::Tcp { port: 80 },
            connections: 1,
            size: 1024,
            depth: 1,
            limit: Limit::Time(Duration::from_secs(1)),
            warmup: Duration::from_millis(200),
            timeout: Duration::from_secs(60),
            gated: false,
            tls: false,
            framing: Framing::Plain,
        };
        assert_eq!(parsed("load --port 80"), Ok(Command::Load(expected)));
    }

    #[test]
    fn load_takes_every_option() {
        let line = "load --port 1 --connections 2 --size 3 --requests 4 --warmup 0.5 --timeout 6 --gated --tls --http";
        let expected = |depth, tls, framing| Load {
            target: Target::Tcp { port: 1 },
            connections: 2,
            size: 3,
            depth,
            limit: Limit::Requests(4),
            warmup: Duration::from_millis(500),
            timeout: Duration::from_secs(6),
            gated: true,
            tls,
            framing,
        };
        assert_eq!(parsed(line), Ok(Command::Load(expected(1, true, Framing::Http))));
        let deep = line.replace("--tls --http", "--depth 5");
        assert_eq!(parsed(&deep), Ok(Command::Load(expected(5, false, Framing::Plain))));
        let framed = line.replace("--tls --http", "--websocket");
        assert_eq!(parsed(&framed), Ok(Command::Load(expected(1, false, Framing::WebSocket))));
    }

    #[test]
    fn arrivals_share_the_options_of_load() {
        let expected = Arrivals {
            target: Target::Tcp { port: 1 },
            connections: 2,
            size: 3,
            framing: Framing::Http,
            rate: 4.5,
            length: Duration::from_secs(5),
            warmup: Duration::from_millis(500),
            timeout: Duration::from_secs(6),
            seed: 7,
        };
        let line = "arrivals --rate 4.5 --port 1 --connections 2 --size 3 --seconds 5 --warmup 0.5 --timeout 6 --seed 7 --http";
        assert_eq!(parsed(line), Ok(Command::Arrivals(expected)));
    }

    #[test]
    fn calls_share_the_options_of_load() {
        let expected = |tls, resume| Calls {
            target: Target::Tcp { port: 1 },
            connections: 2,
            size: 3,
            limit: Limit::Requests(4),
            warmup: Duration::from_millis(500),
            timeout: Duration::from_secs(6),
            tls,
            resume,
        };
        let line = "calls --port 1 --connections 2 --size 3 --requests 4 --warmup 0.5 --timeout 6";
        assert_eq!(parsed(line), Ok(Command::Calls(expected(false, false))));
        assert_eq!(parsed(&format!("{line} --tls")), Ok(Command::Calls(expected(true, false))));
        assert_eq!(parsed(&format!("{line} --resume --tls")), Ok(Command::Calls(expected(true, true))));
    }

    #[test]
    fn load_takes_any_target() {
        for (option, expected) in [
            ("--port 5", Target::Tcp { port: 5 }),
            ("--path /a/b", Target::Unix { path: "/a/b".to_owned() }),
            ("--udp-port 6", Target::Udp { port: 6 }),
        ] {
            let Ok(Command::Load(load)) = parsed(&format!("load {option}")) else { panic!("{option}") };
            assert_eq!(load.target, expected);
        }
    }

    #[test]
    fn serve_takes_a_port() {
        assert_eq!(parsed("serve"), Ok(Command::Serve { port: 0, tls: None }));
        assert_eq!(parsed("serve --port 8080"), Ok(Command::Serve { port: 8080, tls: None }));
    }

    #[test]
    fn serve_takes_an_openssl_and_a_certificate() {
        let tls = Tls { libssl: "/a/libssl.so".to_owned(), chain: "b.pem".to_owned() };
        let expected = Command::Serve { port: 0, tls: Some(tls) };
        assert_eq!(parsed("serve --libssl /a/libssl.so --chain b.pem"), Ok(expected));
    }

    #[test]
    fn help_is_not_a_mistake() {
        for line in ["--help", "-h", "load --help", "serve -h"] {
            assert_eq!(parsed(line), Ok(Command::Help));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("", "a mode is needed"),
            ("dance", "\"dance\""),
            ("load", "--udp-port is needed"),
            ("load --port 1 --path x", "once"),
            ("load --port", "--port needs a value"),
            ("load --port 70000", "\"70000\""),
            ("load --port 1 --seconds -1", "-1"),
            ("load --port 1 --seconds nan", "NaN"),
            ("load --port 1 --size 0", "at least 1"),
            ("load --port 1 --requests 0", "at least 1"),
            ("load --port 1 --speed 9", "\"--speed\""),
            ("load --udp-port 1 --tls", "not for --udp-port"),
            ("load --udp-port 1 --http", "not for --udp-port"),
            ("load --udp-port 1 --depth 2", "not for --udp-port"),
            ("load --port 1 --depth 0", "at least 1"),
            ("load --port 1 --depth 2 --tls", "neither for TLS"),
            ("load --port 1 --depth 2 --websocket", "neither for TLS"),
            ("calls --port 1 --http", "without a head"),
            ("calls --port 1 --gated", "always gated"),
            ("calls --port 1 --resume", "for --tls"),
            ("arrivals --port 1", "--rate must be above 0"),
            ("arrivals --port 1 --rate inf", "--rate must be above 0"),
            ("arrivals --port 1 --rate 5 --requests 4", "--seconds"),
            ("arrivals --udp-port 1 --rate 5", "nor by UDP"),
            ("arrivals --port 1 --rate 5 --depth 2", "one at a time"),
            ("calls --udp-port 1", "not for --udp-port"),
            ("serve --size 9", "\"--size\""),
            ("serve --libssl x", "together"),
            ("serve --chain x", "together"),
        ] {
            let message = parsed(line).expect_err(line);
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}
