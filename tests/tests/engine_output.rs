//! What an engine prints: it waits for no disk, is kept in order and in files of a size, and its end is in the report.
//!
//! Real watchdogs; the engine is this executable (`sidekick_tests::engine`), which prints as many lines as it is let. A
//! disk that stands still needs a mount, and its tests are ignored with the reason where there is no right to mount.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::engine::{self, Game, LINE_BYTES, line};
use sidekick_tests::mount::Mount;
use sidekick_tests::scene;
use sidekick_tests::verdicts::{self, PATIENCE, ignorable, journals, stop_cleanly, trial};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const DISK_BYTES: u64 = 256 << 20;
/// Longer than everything that is to happen meanwhile takes on a slow machine.
const STALL_MAX: Duration = Duration::from_secs(120);
/// Lines that are printed before the disk stands still.
const LINES_BEFORE: u64 = 1000;
/// More than any pipe holds, and less than may wait in memory.
const LINES_HELD: u64 = 60_000;
/// What may wait in memory, and what is left of it when some is given up.
const MEMORY_BYTES_MAX: u64 = 16 << 20;
const MEMORY_BYTES_LEFT: u64 = 8 << 20;

fn main() -> ExitCode {
    verdicts::main(vec![
        ignorable(
            "an_engine_prints_on_beside_a_disk_that_stands_still_and_no_line_is_lost",
            an_engine_prints_on_beside_a_disk_that_stands_still_and_no_line_is_lost,
        ),
        ignorable(
            "an_engine_that_printed_to_the_disk_itself_would_be_held_up",
            an_engine_that_printed_to_the_disk_itself_would_be_held_up,
        ),
        ignorable(
            "what_does_not_fit_into_memory_is_given_up_and_the_loss_is_told",
            what_does_not_fit_into_memory_is_given_up_and_the_loss_is_told,
        ),
        trial(
            "output_is_kept_in_files_of_a_size_and_the_oldest_go",
            output_is_kept_in_files_of_a_size_and_the_oldest_go,
        ),
        trial(
            "output_that_cannot_be_written_fills_no_memory_and_is_told_of_once",
            output_that_cannot_be_written_fills_no_memory_and_is_told_of_once,
        ),
        trial(
            "a_report_has_the_configured_number_of_last_lines",
            a_report_has_the_configured_number_of_last_lines,
        ),
    ])
}

/// A game that prints what it is let, and its surroundings.
fn printing() -> (Setup, Game) {
    let mut setup = Setup::new();
    let game = Game::new(journals(&setup));
    setup.set_engine(game.command_line());
    (setup, game)
}

/// So many lines were printed, by the engines' own account.
fn printed(setup: &Setup) -> u64 {
    let played = engine::played(&journals(setup));
    played.iter().map(|engine| engine.lines).sum()
}

#[track_caller]
fn wait_until_printed(setup: &Setup, lines: u64) {
    wait::until("the lines to be printed", PATIENCE, || {
        (printed(setup) >= lines).then_some(())
    });
}

/// One file of the first engine's output.
#[derive(Debug)]
struct Piece {
    /// The place of its first byte in all that the engine printed.
    start: u64,
    text: String,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.text.len() as u64
    }
}

/// What is kept of the first engine's output, in its order.
#[track_caller]
fn kept(setup: &Setup) -> Vec<Piece> {
    // Before the first line there is no folder.
    let entries = fs::read_dir(setup.data_dir().join("engine")).into_iter();
    let mut pieces: Vec<Piece> = entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem()?.to_str()?;
            let (launch, start) = name.split_once('.').unwrap_or((name, "0"));
            let is_first = launch.parse() == Ok(1);
            // One of the oldest may go meanwhile.
            let text = fs::read_to_string(&path).ok().filter(|_| is_first)?;
            let start = start.parse().expect("a place");
            Some(Piece { start, text })
        })
        .collect();
    pieces.sort_by_key(|piece| piece.start);
    pieces
}

/// Waits until line `number` is on the disk.
#[track_caller]
fn wait_until_kept(setup: &Setup, number: u64) {
    let wanted = format!("{}\n", line(number));
    wait::until("the lines on the disk", PATIENCE, || {
        let kept = kept(setup);
        kept.last()?.text.ends_with(&wanted).then_some(())
    });
}

/// The numbers of the whole lines of `text`, which must follow one another; what stands before the first is passed over.
#[track_caller]
fn numbers(text: &str) -> Vec<u64> {
    let number = |text: &str| -> u64 {
        let digits = text
            .strip_prefix("line ")
            .map(|text| text.split('.').next());
        let number = digits.flatten().and_then(|digits| digits.parse().ok());
        let number = number.unwrap_or_else(|| panic!("no line of ours: {text:?}"));
        assert_eq!(text, line(number));
        number
    };
    let lines = text
        .lines()
        .skip_while(|text| text.len() + 1 != LINE_BYTES || !text.starts_with("line "));
    let numbers: Vec<u64> = lines.map(number).collect();
    let is_row = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
    assert!(is_row, "not one after the other: {numbers:?}");
    numbers
}

/// A watchdog whose data directory lies on a disk of its own, and which has kept the first lines.
fn over_a_disk(setup: &mut Setup) -> Result<Mount, String> {
    let disk = Mount::disk(&setup.data_dir(), DISK_BYTES)?;
    setup.set_variable("SIDEKICK_DATA_DIR", setup.data_dir());
    Ok(disk)
}

/// Whether the engine prints so many lines in all; if not, it has been found to hang.
#[track_caller]
fn goes_on_to_print(setup: &Setup, watchdog: &Watchdog<'_>, lines: u64) -> bool {
    wait::until("the lines or a hang", STALL_MAX, || {
        if printed(setup) >= lines {
            return Some(true);
        }
        let engine = &watchdog.status()?["engine"];
        let has_hung = engine["state"] == "hung" || engine["last_deaths"] != Value::Array(vec![]);
        has_hung.then_some(false)
    })
}

fn an_engine_prints_on_beside_a_disk_that_stands_still_and_no_line_is_lost() -> Result<(), String> {
    let (mut setup, game) = printing();
    let disk = over_a_disk(&mut setup)?;
    let watchdog = setup.start();
    game.let_print(LINES_BEFORE);
    wait_until_kept(&setup, LINES_BEFORE);
    let stall = disk.stall(STALL_MAX)?;
    game.let_print(LINES_HELD);
    assert!(goes_on_to_print(&setup, &watchdog, LINES_HELD));
    // The frames go on as well, and the status can be asked.
    let frame = |status: &Value| status["engine"]["frame"].as_u64();
    let before = watchdog.status().as_ref().and_then(frame);
    watchdog.wait_for_status("more frames", PATIENCE, |status| {
        (frame(status) > before).then_some(())
    });
    stall.end()?;
    wait_until_kept(&setup, LINES_HELD);
    stop_cleanly(&setup, watchdog);
    let text: String = kept(&setup).into_iter().map(|piece| piece.text).collect();
    assert!(text.starts_with("engine 1 plays\n"), "{:.100}", text);
    assert_eq!(numbers(&text), (1..=LINES_HELD).collect::<Vec<_>>());
    Ok(())
}

/// The same check finds out an engine that writes its lines to the disk, as one would whose watchdog gave it a file
/// there: the first test can fail.
fn an_engine_that_printed_to_the_disk_itself_would_be_held_up() -> Result<(), String> {
    let (mut setup, game) = printing();
    let disk = over_a_disk(&mut setup)?;
    let own: PathBuf = setup.data_dir().join("own.log");
    let script = format!("exec \"$0\" \"$@\" >> '{}'", own.display());
    let words = ["sh", "-c", &script].map(Into::into);
    setup.set_engine(words.into_iter().chain(game.command_line()));
    let watchdog = setup.start();
    game.let_print(LINES_BEFORE);
    wait_until_printed(&setup, LINES_BEFORE);
    let stall = disk.stall(STALL_MAX)?;
    game.let_print(LINES_HELD);
    assert!(!goes_on_to_print(&setup, &watchdog, LINES_HELD));
    stall.end()
}

/// How many bytes are missing, as told to who follows the first engine's output from its beginning.
#[track_caller]
fn skipped(watchdog: &Watchdog<'_>) -> u64 {
    let address = watchdog.api_address().expect("it listens");
    let mut stream = TcpStream::connect(&address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let path = "/api/v1/logs?follow=true&after=1:0";
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("asked");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut items = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let told = items.find_map(|item| item["skipped_bytes"].as_u64());
    told.expect("a word of what is missing")
}

/// More than may wait in memory: the newest is kept, a file's name shows where it begins, the watchdog's log and whoever
/// reads on from before are told, and the memory stays bounded.
fn what_does_not_fit_into_memory_is_given_up_and_the_loss_is_told() -> Result<(), String> {
    let (mut setup, game) = printing();
    let disk = over_a_disk(&mut setup)?;
    let mut watchdog = setup.start();
    game.let_print(LINES_BEFORE);
    wait_until_kept(&setup, LINES_BEFORE);
    let stall = disk.stall(STALL_MAX)?;
    let lines = (MEMORY_BYTES_MAX + MEMORY_BYTES_LEFT / 2) / LINE_BYTES as u64;
    game.let_print(lines);
    assert!(goes_on_to_print(&setup, &watchdog, lines));
    watchdog.wait_for_log("the loss", PATIENCE, |line| {
        line.message
            .contains("a part of it is not kept")
            .then_some(())
    });
    let live = setup.runtime_dir().join("output/0000000001.log");
    wait::until("the memory to be given back", PATIENCE, || {
        let in_memory = fs::metadata(&live).expect("the live file").blocks() * 512;
        (in_memory < MEMORY_BYTES_MAX).then_some(())
    });
    stall.end()?;
    wait_until_kept(&setup, lines);
    let skipped = skipped(&watchdog);
    stop_cleanly(&setup, watchdog);
    let kept = kept(&setup);
    let gaps: Vec<u64> = kept
        .windows(2)
        .map(|pair| pair[1].start - pair[0].end())
        .filter(|gap| *gap > 0)
        .collect();
    assert_eq!(gaps.len(), 1, "one gap in the names");
    assert_eq!(skipped, gaps[0]);
    let rest = kept.into_iter().skip_while(|piece| piece.start == 0);
    let rest: String = rest.map(|piece| piece.text).collect();
    assert!(rest.len() as u64 >= MEMORY_BYTES_LEFT, "{}", rest.len());
    assert_eq!(numbers(&rest).last(), Some(&lines));
    Ok(())
}

/// A file takes the place of the output's folder. Of engines that die one after the other the last few's output is kept.
fn output_that_cannot_be_written_fills_no_memory_and_is_told_of_once() {
    const DEATHS: u64 = 12;
    /// Of the dead, the living one's, and the one that is prepared for the next.
    const FILES_MAX: usize = 8 + 2;
    let (setup, _game) = printing();
    setup.set_config(
        "[restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"10ms\"\ncrash_loop_deaths = 100\n",
    );
    let watchdog = setup.start();
    let folder = setup.data_dir().join("engine");
    for number in 1..=DEATHS + 1 {
        let pid = watchdog.wait_for_status("the next engine", PATIENCE, |status| {
            let engine = &status["engine"];
            let is_next = engine["incarnation"] == number && engine["connected"] == true;
            engine["pid"].as_u64().filter(|_| is_next)
        });
        if number == 1 {
            wait::until("the first output", PATIENCE, || {
                let mut files = fs::read_dir(&folder).ok()?;
                files.next().is_some().then_some(())
            });
            // Away at once, whatever is being written into it.
            let away = folder.with_file_name("gone");
            fs::rename(&folder, away).expect("the folder of the output");
            fs::write(&folder, "").expect("a file in its way");
        }
        if number <= DEATHS {
            setup.signal(u32::try_from(pid).expect("a process id"), Signal::KILL);
        }
    }
    let live = setup.runtime_dir().join("output");
    wait::until("the oldest to go", PATIENCE, || {
        let files = fs::read_dir(&live).expect("the live files").count();
        (files <= FILES_MAX).then_some(())
    });
    let lines = watchdog.running.lines.all();
    let told = lines
        .iter()
        .filter(|line| line.contains("engine output is not on the disk"));
    assert_eq!(told.count(), 1, "{lines:#?}");
    stop_cleanly(&setup, watchdog);
}

/// What is wrong with files that are to have `file_bytes` each and `all_bytes` together.
fn faults_of_rotation(kept: &[Piece], file_bytes: u64, all_bytes: u64) -> Vec<String> {
    // The copying goes by chunks, and a file ends with a line.
    const CHUNK_BYTES: u64 = 64 << 10;
    let mut faults = Vec::new();
    let largest = file_bytes + CHUNK_BYTES + LINE_BYTES as u64;
    for (number, piece) in (1..).zip(kept) {
        let bytes = piece.text.len() as u64;
        let is_last = number == kept.len();
        if bytes > largest || (bytes < file_bytes && !is_last) {
            faults.push(format!("a file of {bytes} bytes at {}", piece.start));
        }
        if !piece.text.ends_with('\n') {
            faults.push(format!("the file at {} cuts a line", piece.start));
        }
    }
    for pair in kept
        .windows(2)
        .filter(|pair| pair[1].start != pair[0].end())
    {
        faults.push(format!(
            "nothing between {} and {}",
            pair[0].end(),
            pair[1].start
        ));
    }
    let all: u64 = kept.iter().map(|piece| piece.text.len() as u64).sum();
    if all > all_bytes + largest {
        faults.push(format!("{all} bytes in all"));
    }
    faults
}

/// `[engine] log_rotate` and `log_disk_max`; with their defaults the same output is one file.
fn output_is_kept_in_files_of_a_size_and_the_oldest_go() {
    const FILE_BYTES: u64 = 128 << 10;
    const ALL_BYTES: u64 = 1 << 20;
    const LINES: u64 = 3 * ALL_BYTES / LINE_BYTES as u64;
    let kept_with = |config: &str| {
        let (setup, game) = printing();
        setup.set_config(config);
        let watchdog = setup.start();
        game.let_print(LINES);
        wait_until_kept(&setup, LINES);
        stop_cleanly(&setup, watchdog);
        kept(&setup)
    };
    let kept = kept_with("[engine]\nlog_rotate = \"128KiB\"\nlog_disk_max = \"1MiB\"\n");
    let faults = faults_of_rotation(&kept, FILE_BYTES, ALL_BYTES);
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(kept[0].start > 0, "the oldest is gone");
    let text: String = kept.into_iter().map(|piece| piece.text).collect();
    let numbers = numbers(&text);
    assert_eq!(numbers.last(), Some(&LINES));
    assert!(
        text.len() as u64 > ALL_BYTES - 2 * FILE_BYTES,
        "{}",
        text.len()
    );
    let one = kept_with("");
    assert_eq!((one.len(), one[0].start), (1, 0));
    assert_ne!(
        faults_of_rotation(&one, FILE_BYTES, ALL_BYTES),
        Vec::<String>::new()
    );
}

/// `[engine] log_lines_kept`, and its default.
fn a_report_has_the_configured_number_of_last_lines() {
    const LINES: u64 = 500;
    for (config, wanted) in [("[engine]\nlog_lines_kept = 7\n", 7), ("", 200)] {
        let (setup, game) = printing();
        setup.set_config(config);
        let watchdog = setup.start();
        game.let_print(LINES);
        wait_until_printed(&setup, LINES);
        let engine = watchdog.status().expect("an answer")["engine"]["pid"].as_u64();
        let engine = engine.and_then(|pid| u32::try_from(pid).ok());
        setup.signal(engine.expect("an engine"), Signal::KILL);
        let report = scene::report(&watchdog, 1);
        let lines = report["log_lines"].as_array().expect("lines");
        let lines: Vec<&str> = lines
            .iter()
            .filter_map(|line| line["text"].as_str())
            .collect();
        let expected: Vec<String> = (LINES - wanted + 1..=LINES).map(line).collect();
        assert_eq!(lines, expected);
        stop_cleanly(&setup, watchdog);
    }
}
