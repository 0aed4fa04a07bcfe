#!/bin/sh
# Restores a SQLite database from a local copy of a backup's folder, without atlas-sidecar: RESTORE.md, beside this file, says how.
#
#   sh restore.sh FOLDER TARGET [POSITION | TIMELINE]
#
#   FOLDER     a copy of the destination: the folder with `format` and t000001/ in it
#   TARGET     the database file to make; it must not exist
#   POSITION   as in the names of manifests: 12, 0000000012 or t000001/0000000012; the newest one of a TIMELINE (t000001); or else of the newest timeline
#
#   IDENTITY=FILE   the age identity, where backups are encrypted
#   SKIP_CHECK=1    without SQLite's integrity_check at the end: where the database was damaged before it was backed up, or uses what this sqlite3 does not know
#
# Needs sqlite3 and gzip, and zstd or age where they were used. It is strict because SQLite is not: a log that is cut off, damaged or in the wrong
# place is an empty one to SQLite, which exits with 0 and deletes it.
set -eu
LC_ALL=C; export LC_ALL; unset CDPATH
die() { echo "restore.sh: $*" >&2; exit 1; }
[ $# -ge 2 ] && [ $# -le 3 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 64; }
folder=$1 target=$2 wanted=${3:-}

# Manifests are JSON with a member to a line. member FILE NAME; part FILE NAME of its object; content FILE stored|plain: the SHA-256
member() { sed -n 's/^  "'"$2"'": "\{0,1\}\([^"]*[^",]\)"\{0,1\},\{0,1\}$/\1/p' "$1"; }
part() { sed -n '/^  "object": {$/,/^  }/s/^    "'"$2"'": "\{0,1\}\([^"]*[^",]\)"\{0,1\},\{0,1\}$/\1/p' "$1"; }
content() { sed -n '/^  "object": {$/,/^  }/{/^    "'"$2"'": {$/,/^    }/s/^      "sha256": "\(.*\)",\{0,1\}$/\1/p;}' "$1"; }
sum() { sha256sum <"$1" | cut -d ' ' -f 1; }
newest() { ls "$folder/$1" | grep '^[0-9]\{10\}\.json$' | sort | tail -n 1 | cut -d . -f 1; }
ask() { sqlite3 -batch -init /dev/null -list -noheader "$1" "$2" 2>"$work/said" || { cat "$work/said" >&2; return 1; }; }

[ -d "$folder" ] || die "$folder is no folder"
if [ -e "$folder/format" ]; then
  [ "$(tr -d ' \n' <"$folder/format")" = '{"format":1}' ] || die "$folder has a layout that this script does not know: use the restore.sh that lies in it"
fi
for file in "$target" "$target-wal" "$target-shm" "$target-journal"; do
  [ ! -e "$file" ] && [ ! -L "$file" ] || die "$file exists: move it away first"
done

# Which position of which timeline.
case $wanted in
  t??????/??????????) place=$wanted ;;
  t??????) place=$wanted/$(newest "$wanted") ;;
  '')
    place=
    for timeline in $(ls "$folder" | grep '^t[0-9]\{6\}$' | sort); do
      last=$(newest "$timeline")
      [ -z "$last" ] || place=$timeline/$last
    done
    [ -n "$place" ] || die "there is no manifest in $folder" ;;
  *[!0-9]*) die "$wanted is no position and no timeline" ;;
  *)
    # A number is used once, whatever the timeline.
    place=$(cd "$folder" && ls -d t??????/"$(printf %010d "$(echo "$wanted" | sed 's/^0*\(.\)/\1/')")".json 2>/dev/null) || die "there is no position $wanted"
    place=${place%.json} ;;
esac
timeline=${place%/*}

# The chain: from there back to the full that it began with.
chain='' at=$place after='' before='' named=''
while :; do
  manifest=$folder/$at.json
  [ -f "$manifest" ] || die "there is no $at.json${after:+, which $after goes on from}"
  [ "$(member "$manifest" format)" = 1 ] && [ "$(member "$manifest" engine)" = sqlite ] || die "$at.json is no manifest of a SQLite database in format 1"
  [ "$timeline/$(printf %010d "$(member "$manifest" to)")" = "$at" ] || die "$at.json is the manifest of another position"
  # What this one says about the state that the one behind it begins at.
  [ -z "$before" ] || [ "$(member "$manifest" digest_after)" = "$before" ] || die "$after does not begin at the state of $at: the chain is broken"
  [ -z "$named" ] || [ "$(sum "$manifest")" = "$named" ] || die "$at.json is not the manifest that $after was written after"
  chain="$at $chain"
  [ "$(member "$manifest" kind)" != full ] || break
  from=$(member "$manifest" from)
  [ "$(member "$manifest" kind)" = incremental ] && [ "$from" -lt "$(member "$manifest" to)" ] || die "$at.json is damaged"
  before=$(member "$manifest" digest_before) named=$(member "$manifest" previous) after=$at
  [ "$named" != null ] || named=
  [ -n "$before" ] || die "$at.json is damaged"
  at=$timeline/$(printf %010d "$from")
done

# A folder of its own beside the target: nobody else may have the database open, and the last step is a rename.
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
db=$work/db

for at in $chain; do
  manifest=$folder/$at.json key=$(part "$folder/$at.json" key)
  [ -n "$key" ] || [ "$(member "$manifest" object)" = null ] || die "$at.json is damaged"
  for file in "$at.json" $key; do
    [ -f "$folder/$file" ] || die "there is no $file"
    # Written once in a while, so that the newest ones may not be in it.
    [ ! -f "$folder/SHA256SUMS" ] || ! line=$(grep "^[0-9a-f]*  $file\$" "$folder/SHA256SUMS") || [ "${line%% *}" = "$(sum "$folder/$file")" ] || die "$file does not have the sum in SHA256SUMS"
  done
  pages=$(member "$manifest" pages) sent=$(member "$manifest" sent_pages)
  if [ -n "$key" ]; then
    [ "$(sum "$folder/$key")" = "$(content "$manifest" stored)" ] || die "$key is damaged: it does not have the sum in $at.json"
    into=$db
    [ "$(member "$manifest" kind)" = full ] || into=$db-wal
    case $(part "$manifest" codec) in gzip) unpack=gzip ;; zstd) unpack=zstd ;; *) die "$at.json names no codec that this script knows" ;; esac
    if [ "$(part "$manifest" encrypted)" = true ]; then
      [ -n "${IDENTITY:-}" ] || die "$key is encrypted: give the age identity as IDENTITY=FILE"
      age -d -i "$IDENTITY" "$folder/$key" | $unpack -dc >"$into" || die "$key cannot be unpacked"
    else
      $unpack -dc <"$folder/$key" >"$into" || die "$key cannot be unpacked"
    fi
    [ "$(sum "$into")" = "$(content "$manifest" plain)" ] || die "$key is damaged: what is in it does not have the sum in $at.json"
  fi
  if [ -e "$db-wal" ]; then
    # SQLite must see the log (the first number), and put all of it into the database (the two others).
    answer=$(ask "$db" 'PRAGMA page_count; PRAGMA wal_checkpoint(FULL);') || die "$at cannot be applied"
    [ "$answer" = "$(printf '%s\n0|%s|%s' "$pages" "$sent" "$sent")" ] || die "$at cannot be applied: $(echo "$answer" | tr '\n' ' ')instead of $pages 0|$sent|$sent"
    [ ! -s "$db-wal" ] || die "SQLite left the log of $at"
    rm -f "$db-wal" "$db-shm"
  fi
  answer=$(ask "$db" 'PRAGMA page_size; PRAGMA page_count;') || die "$at is no database"
  [ "$answer" = "$(printf '%s\n%s' "$(member "$manifest" page_size)" "$pages")" ] || die "$at has not the pages that its manifest says: $answer"
done

if [ -z "${SKIP_CHECK:-}" ]; then
  answer=$(ask "$db" 'PRAGMA integrity_check;') || die "the database cannot be checked; SKIP_CHECK=1 restores it all the same"
  [ "$answer" = ok ] || die "the database is as it was, and damaged: $answer; SKIP_CHECK=1 restores it all the same"
fi
rm -f "$db-wal" "$db-shm"
[ "$(wc -c <"$db")" -eq $((pages * $(member "$manifest" page_size))) ] || die "the file has not the length that its manifest says"
sync
mv "$db" "$target"
echo "$target is the database at position $place, seen at $(member "$manifest" observed)"
