//! The running demo as its log tells it, and the account at the end.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use sidekick_tests::ledger::Ledger;
use sidekick_tests::process::Running;
use sidekick_tests::wait;
use sidekick_tests::watchdog::LogLine;

/// Lines that tell of records which are missing.
const GAP_STREAM: &str = "sidekick.gap";
/// What the watchdog itself records, crash reports for one.
const OWN_STREAMS: &str = "sidekick.";

/// The watchdog on stage. Log lines are looked at once, in order.
#[derive(Debug)]
pub struct Stage {
    watchdog: Running,
    patience: Duration,
    seen: usize,
}

/// One engine's session, as the watchdog told of it.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The last number found in its ring.
    pub recorded: u64,
    /// How many of these numbers are checkpoints and the like, which stay with the watchdog.
    pub requests: u64,
    /// The last number that is durable.
    pub committed: u64,
}

/// What a line calls the engine that it tells of, if it is the start of one.
pub fn new_engine(line: &LogLine) -> Option<&'static str> {
    match line.message.as_str() {
        "engine started" => Some("next engine"),
        "standby promoted: it is the engine" => Some("the standby took over"),
        _ => None,
    }
}

impl Stage {
    /// A watchdog that was just started.
    pub fn new(watchdog: Running, patience: Duration) -> Self {
        Self {
            watchdog,
            patience,
            seen: 0,
        }
    }

    /// Waits for the next line for which `pick` gives something; the lines before it are done with.
    ///
    /// # Errors
    /// When the watchdog ends first, or nothing comes for a minute; with its whole log.
    pub fn wait<T>(
        &mut self,
        what: &str,
        pick: impl Fn(&LogLine) -> Option<T>,
    ) -> Result<T, Box<dyn Error>> {
        let found = wait::poll(self.patience, || {
            let has_ended = !self.watchdog.is_alive();
            let lines = self.watchdog.lines.all();
            while self.seen < lines.len() {
                let line = &lines[self.seen];
                self.seen += 1;
                if let Some(found) = LogLine::parse(line).and_then(|line| pick(&line)) {
                    return Some(Some(found));
                }
            }
            has_ended.then_some(None)
        });
        found.flatten().ok_or_else(|| {
            let log = self.watchdog.lines.all().join("\n");
            format!("waited in vain for {what}; the watchdog's log says:\n{log}").into()
        })
    }

    /// Waits for a line anywhere in the log, also among those that are done with.
    ///
    /// # Errors
    /// When none comes for a minute; with the whole log.
    pub fn find<T>(
        &self,
        what: &str,
        pick: impl Fn(&LogLine) -> Option<T>,
    ) -> Result<T, Box<dyn Error>> {
        let found = wait::poll(self.patience, || {
            let lines = self.watchdog.lines.all();
            lines
                .iter()
                .filter_map(LogLine::parse)
                .find_map(|line| pick(&line))
        });
        found.ok_or_else(|| {
            let log = self.watchdog.lines.all().join("\n");
            format!("waited in vain for {what}; the watchdog's log says:\n{log}").into()
        })
    }

    /// The running engine's process id.
    pub fn engine(&self) -> Option<u32> {
        let lines = self.watchdog.lines.all();
        let last = lines
            .iter()
            .rev()
            .filter_map(LogLine::parse)
            .find(|line| new_engine(line).is_some())?;
        u32::try_from(last.number("pid")?).ok()
    }

    /// Waits until a standby is parked beside the running engine.
    ///
    /// # Errors
    /// When none is for a minute; with the whole log.
    pub fn parked(&self) -> Result<(), Box<dyn Error>> {
        let incarnation = |line: &LogLine| line.number("incarnation").unwrap_or_default();
        let lines = self.watchdog.lines.all();
        let lines = lines.iter().filter_map(LogLine::parse);
        let engines = lines.filter(|line| new_engine(line).is_some());
        let engine = engines.map(|line| incarnation(&line)).max().unwrap_or(0);
        self.find("a parked standby", |line| {
            (line.message == "standby parked" && incarnation(line) > engine).then_some(())
        })
    }

    /// Asks the watchdog to end and waits for that.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end(&mut self) -> Result<ExitStatus, Box<dyn Error>> {
        self.watchdog.signal(Signal::TERM);
        let status = self.watchdog.wait(self.patience);
        status.ok_or_else(|| "the watchdog did not end".into())
    }

    /// The sessions that ended, by epoch.
    pub fn sessions(&self) -> BTreeMap<String, Session> {
        let lines = self.watchdog.settled_lines();
        let told = lines
            .iter()
            .filter_map(LogLine::parse)
            .filter(|line| line.message.starts_with("session ended"));
        told.filter_map(|line| {
            let (recorded, committed) = (line.number("recorded")?, line.number("committed")?);
            Some((
                line.text("epoch")?.to_owned(),
                Session {
                    recorded,
                    requests: line.number("requests")?,
                    committed,
                },
            ))
        })
        .collect()
    }
}

/// The sums, and what is wrong with them.
#[derive(Debug)]
pub struct Account {
    sessions: usize,
    noted: u64,
    recorded: u64,
    committed: u64,
    requests: u64,
    uploaded: u64,
    lost: u64,
    duplicates: u64,
    violations: Vec<String>,
}

impl Account {
    /// Holds the three sides against one another.
    ///
    /// # Errors
    /// When the game's notes cannot be read.
    pub fn of(
        sessions: &BTreeMap<String, Session>,
        witness: &Path,
        ledger: &Ledger,
    ) -> Result<Self, Box<dyn Error>> {
        let mut arrived: BTreeMap<&str, u64> = BTreeMap::new();
        let mut missing = 0;
        for (key, arrival) in ledger.records() {
            if arrival.stream == GAP_STREAM {
                // Says itself how many it stands for; it is no record.
                missing += arrival.data()["count"].as_u64().unwrap_or(1).max(1);
            } else if !arrival.stream.starts_with(OWN_STREAMS) {
                *arrived.entry(key.epoch.as_str()).or_default() += 1;
            }
        }
        let notes = read_notes(witness)?;
        let mut account = Self {
            sessions: sessions.len(),
            noted: notes.values().sum(),
            recorded: sessions.values().map(|session| session.recorded).sum(),
            committed: sessions.values().map(|session| session.committed).sum(),
            requests: sessions.values().map(|session| session.requests).sum(),
            uploaded: arrived.values().sum(),
            lost: missing,
            duplicates: ledger.duplicates,
            violations: ledger.violations.clone(),
        };
        for (epoch, noted) in &notes {
            let session = sessions.get(epoch);
            let in_ring = session.map_or(0, |session| session.recorded);
            let requests = session.map_or(0, |session| session.requests);
            let at_backend = arrived.get(epoch.as_str()).copied().unwrap_or_default();
            account.lost += noted.max(&in_ring).saturating_sub(at_backend + requests);
        }
        for (epoch, session) in sessions {
            if !notes.contains_key(epoch) {
                let at_backend = arrived.get(epoch.as_str()).copied().unwrap_or_default();
                account.lost += session
                    .recorded
                    .saturating_sub(at_backend + session.requests);
            }
        }
        Ok(account)
    }

    /// Prints it.
    pub fn print(&self) {
        println!("   engines     {}", self.sessions);
        println!(
            "   noted by the games themselves, up to their last frames  {:>9}",
            self.noted
        );
        println!(
            "   recorded    (found in the rings)                        {:>9}",
            self.recorded
        );
        println!(
            "   committed   (fsynced)                                   {:>9}",
            self.committed
        );
        println!(
            "   checkpoints and the like (stay with the watchdog)       {:>9}",
            self.requests
        );
        println!(
            "   uploaded    (different records at the backend)          {:>9}",
            self.uploaded
        );
        println!("   lost {}, duplicates {}", self.lost, self.duplicates);
    }

    /// Whether all is as promised.
    ///
    /// # Errors
    /// When it is not, with what is wrong.
    pub fn verdict(&self) -> Result<(), Box<dyn Error>> {
        if let Some(violation) = self.violations.first() {
            return Err(
                format!("the backend was sent what it must not be sent: {violation}").into(),
            );
        }
        let equal =
            self.recorded == self.committed && self.committed == self.uploaded + self.requests;
        if !equal || self.lost > 0 || self.duplicates > 0 || self.noted > self.recorded {
            return Err("the numbers do not agree".into());
        }
        if self.noted == 0 {
            return Err("the games noted nothing, so nothing was checked".into());
        }
        println!("   recorded = committed = uploaded + checkpoints");
        Ok(())
    }
}

/// The last count that each game noted, by epoch. The file's last line may be cut off by a kill.
fn read_notes(folder: &Path) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
    let mut notes = BTreeMap::new();
    for file in fs::read_dir(folder)? {
        let text = fs::read_to_string(file?.path())?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        let Some(epoch) = lines.next() else { continue };
        let noted = lines
            .next_back()
            .and_then(|line| line.parse().ok())
            .unwrap_or_default();
        notes.insert(epoch.to_owned(), noted);
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of each session that are no records.
    const REQUESTS: u64 = 2;

    fn line(seq: u64, stream: &str, data: &str) -> String {
        format!(
            r#"{{"source":"s","epoch":"e","seq":{seq},"stream":"{stream}","time":"2026-11-22T12:00:00.000000Z","incarnation":1,"data":{data}}}"#
        )
    }

    fn account(line_count: u64, noted: u64, recorded: u64) -> Account {
        account_of(
            (1..=line_count).map(|seq| line(seq, "a", "null")),
            noted,
            recorded,
        )
    }

    fn account_of(lines: impl Iterator<Item = String>, noted: u64, recorded: u64) -> Account {
        let folder = tempfile::tempdir().expect("a folder");
        let noted = if noted == 0 { 0 } else { noted + REQUESTS };
        fs::write(folder.path().join("1"), format!("e\n{noted}\n9999")).expect("a note");
        let mut ledger = Ledger::default();
        for line in lines {
            ledger.take(&line);
        }
        let session = Session {
            recorded: recorded + REQUESTS,
            requests: REQUESTS,
            committed: recorded + REQUESTS,
        };
        Account::of(
            &BTreeMap::from([("e".to_owned(), session)]),
            folder.path(),
            &ledger,
        )
        .expect("an account")
    }

    /// What is right passes; a record missing at the backend, or one that only the game knows of, does not.
    #[test]
    fn the_account_can_fail() {
        assert!(account(5, 5, 5).verdict().is_ok());
        assert!(
            account(5, 4, 5).verdict().is_ok(),
            "records after the last note"
        );
        let with_a_gap = account_of(
            (1..=4).map(|seq| line(seq, "a", "null")).chain([line(
                5,
                "sidekick.gap",
                r#"{"count":1}"#,
            )]),
            5,
            5,
        );
        assert_eq!(with_a_gap.lost, 2, "told of, and not there");
        assert!(with_a_gap.verdict().is_err());
        let with_a_report = account_of(
            (1..=5)
                .map(|seq| line(seq, "a", "null"))
                .chain([line(6, "sidekick.crash", "{}")]),
            5,
            5,
        );
        assert!(
            with_a_report.verdict().is_ok(),
            "a crash report is no record of the game"
        );
        let lost = account(4, 5, 5);
        assert_eq!(lost.lost, 1);
        assert!(lost.verdict().is_err());
        assert!(
            account(4, 5, 4).verdict().is_err(),
            "the ring itself lost one"
        );
        assert!(account(0, 0, 0).verdict().is_err(), "nothing was checked");
    }
}
