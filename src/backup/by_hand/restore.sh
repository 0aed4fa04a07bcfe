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
warn() { echo "restore.sh: warning: $*" >&2; }
[ $# -ge 2 ] && [ $# -le 3 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 64; }
folder=$1 target=$2 wanted=${3:-}
# So that no name is taken for an option, or for a variable of awk.
case $folder in /*) ;; *) folder=./$folder ;; esac

# Manifests are JSON with a member to a line; notes, and the lines of an index, are JSON without blanks.
in_line() { sed -n 's/^.*[{,]"'"$1"'":"\{0,1\}\([^",}]*\)[",}].*$/\1/p'; }
# member FILE NAME; part FILE NAME [index]: of its object; content FILE stored|plain [index]: the SHA-256
member() { case $1 in *.note) in_line "$2" <"$1" ;; *) sed -n 's/^  "'"$2"'": "\{0,1\}\([^"]*[^",]\)"\{0,1\},\{0,1\}$/\1/p' "$1" ;; esac; }
part() { case $1 in *.note) in_line "$2" <"$1" ;; *) sed -n '/^  "'"${3:-object}"'": {$/,/^  }/s/^    "'"$2"'": "\{0,1\}\([^"]*[^",]\)"\{0,1\},\{0,1\}$/\1/p' "$1" ;; esac; }
content() {
  case $1 in
    *.note) sed -n 's/^.*,"'"$2"'":{"bytes":[0-9]*,"sha256":"\([0-9a-f]*\)"}.*$/\1/p' "$1" ;;
    *) sed -n '/^  "'"${3:-object}"'": {$/,/^  }/{/^    "'"$2"'": {$/,/^    }/s/^      "sha256": "\(.*\)",\{0,1\}$/\1/p;}' "$1" ;;
  esac
}
# A note has no line feed, but what wrote the file may have added one.
sum() { case $1 in *.note) tr -d '\n' <"$1" ;; *) cat "$1" ;; esac | sha256sum | cut -d ' ' -f 1; }
# Four bytes of FILE at OFFSET as a number.
word() { od -A n -t u1 -j "$2" -N 4 "$1" | { read -r a b c d; echo $((((a * 256 + b) * 256 + c) * 256 + d)); }; }
# Without the zeros that make a number an octal one, and with them.
plain() { echo "$1" | sed 's/^0*\(.\)/\1/'; }
pad() { printf %010d "$1"; }
ask() { sqlite3 -batch -init /dev/null -list -noheader "$1" "$2" 2>"$work/said" || { cat "$work/said" >&2; return 1; }; }

# The segments of a timeline, a line for each: KIND FROM TO. Manifests that are not what their names say are none.
segments() {
  set -- "$folder/$1" "$folder/$1"/[0-9]*.json
  [ ! -f "$2" ] || (shift; awk -F '[ ,"]+' '
    FNR == 1 { kind = from = "" }
    /^  "kind": / { kind = $4 }
    /^  "from": / { from = $4 }
    /^  "to": / {
      name = sprintf("%010.0f", $4) (kind == "fine" || kind == "merged" ? "." kind : "") ".json"
      if (substr(FILENAME, length(FILENAME) - length(name)) == "/" name && (kind == "full" ? from == "null" : from ~ /^[0-9]+$/ && from < $4)) print kind, from, $4
    }' "$@")
  # Without zeros in front, as busybox' awk takes them for octal ones.
  ls "$1" | grep '^[0-9]\{10\}\.wal\.' | sed 's/^0*\([0-9]*\)\..*$/live - \1/'
}
newest() { ls "$folder/$1" | sed -n 's/^\([0-9]\{10\}\)\.json$/\1/p; s/^\([0-9]\{10\}\)\.fine\.json$/\1/p; s/^\([0-9]\{10\}\)\.merged\.json$/\1/p; s/^\([0-9]\{10\}\)\.wal\..*$/\1/p' | sort | tail -n 1; }
# Whether a segment of a timeline leads to a position, or a fine one has it inside.
leads() { segments "$1" | awk -v at="$2" '$3 == at || ($1 == "fine" && $2 < at && at < $3) { found = 1 } END { exit !found }'; }

[ -d "$folder" ] || die "$folder is no folder"
if [ -e "$folder/format" ]; then
  [ "$(tr -d ' \n' <"$folder/format")" = '{"format":1}' ] || die "$folder has a layout that this script does not know: use the restore.sh that lies in it"
fi
for file in "$target" "$target-wal" "$target-shm" "$target-journal"; do
  [ ! -e "$file" ] && [ ! -L "$file" ] || die "$file exists: move it away first"
done

# Which position of which timeline.
timelines=$(ls "$folder" | grep '^t[0-9]\{6\}$' | sort) || die "there is no timeline in $folder"
case $wanted in
  t[0-9][0-9][0-9][0-9][0-9][0-9]/[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9])
    place=$wanted
    [ -d "$folder/${place%/*}" ] || die "there is no timeline ${place%/*}" ;;
  t[0-9][0-9][0-9][0-9][0-9][0-9])
    [ -d "$folder/$wanted" ] || die "there is no timeline $wanted"
    place=$wanted/$(newest "$wanted")
    [ "$place" != "$wanted/" ] || die "there is no manifest in timeline $wanted" ;;
  '')
    place=
    for timeline in $timelines; do
      last=$(newest "$timeline")
      [ -z "$last" ] || place=$timeline/$last
    done
    [ -n "$place" ] || die "there is no manifest in $folder" ;;
  *[!0-9]*) die "$wanted is no position and no timeline" ;;
  *)
    # A number is used once, whatever the timeline.
    place=
    for timeline in $timelines; do
      ! leads "$timeline" "$(plain "$wanted")" || place=$timeline/$(pad "$(plain "$wanted")")
    done
    [ -n "$place" ] || die "there is no position $wanted" ;;
esac
timeline=${place%/*} last=$(plain "${place#*/}")

# A folder of its own beside the target: nobody else may have the database open, and the last step is a rename.
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
db=$work/db

# The way there, a line for each step: KIND FROM TO REACHED. From the newest full on, again and again the segment that begins where we are or before and leads furthest. What it
# lacks did not change since it begins. Of a fine segment the beginning will do.
segments "$timeline" >"$work/segments"
awk -v last="$last" '
  BEGIN { n = at = 0 }
  $1 == "full" { if ($3 <= last && $3 > at) at = $3 + 0; next }
  $1 == "live" { live[$3 + 0] = 1; next }
  { kind[n] = $1; from[n] = $2 + 0; to[n++] = $3 + 0 }
  END {
    if (!at) { print "nothing"; exit }
    printf "full - %.0f %.0f\n", at, at
    while (at < last) {
      best = -1; reached = at
      for (i = 0; i < n; i++) {
        if (from[i] > at || (to[i] > last && kind[i] != "fine")) continue
        end = to[i] > last ? last + 0 : to[i]
        # Of those that lead as far, a whole one; of these a merged one, which is the smallest.
        if (end > reached || (end == reached && best >= 0 && (to[best] > end || (to[i] == end && kind[i] == "merged")))) { best = i; reached = end }
      }
      if ((best < 0 || to[best] > reached) && reached <= at + 1 && live[at + 1]) { printf "live %.0f %.0f %.0f\n", at, at + 1, at + 1; at++; continue }
      if (best < 0) { printf "hole %.0f\n", at; exit }
      printf "%s %.0f %.0f %.0f\n", kind[best], from[best], to[best], reached
      at = reached
    }
  }' "$work/segments" >"$work/way"
case $(tail -n 1 "$work/way") in
  nothing) die "there is no full at position $last of $timeline or before it" ;;
  hole*) die "there is no segment that leads on from position $(sed -n 's/^hole //p' "$work/way") of $timeline, on the way to $last" ;;
esac

# Whether FILE is there, and what SHA256SUMS says. That is written once in a while, so that the newest files may not be in it.
present() {
  [ -f "$folder/$1" ] || die "there is no $1"
  [ ! -f "$folder/SHA256SUMS" ] || ! line=$(grep "^[0-9a-f]*  $1\$" "$folder/SHA256SUMS") || [ "${line%% *}" = "$(sum "$folder/$1")" ] || die "$1 does not have the sum in SHA256SUMS"
}
# unpack KEY CODEC ENCRYPTED INTO
unpack() {
  case $2 in gzip) tool=gzip ;; zstd) tool=zstd ;; *) die "$1 has no codec that this script knows" ;; esac
  if [ "$3" = true ]; then
    [ -n "${IDENTITY:-}" ] || die "$1 is encrypted: give the age identity as IDENTITY=FILE"
    age -d -i "$IDENTITY" "$folder/$1" | $tool -dc >"$4" || die "$1 cannot be unpacked"
  else
    $tool -dc <"$folder/$1" >"$4" || die "$1 cannot be unpacked"
  fi
}
# fetch MANIFEST object|index INTO: what is named there, compared with the sums there
fetch() {
  key=$(part "$1" key "$2")
  present "$key"
  [ "$(sum "$folder/$key")" = "$(content "$1" stored "$2")" ] || die "$key is damaged: it does not have the sum in ${1#"$folder/"}"
  unpack "$key" "$(part "$1" codec "$2")" "$(part "$1" encrypted "$2")" "$3"
  [ "$(sum "$3")" = "$(content "$1" plain "$2")" ] || die "$key is damaged: what is in it does not have the sum in ${1#"$folder/"}"
}
# follows MANIFEST KIND FROM: it was written after what is there of the state that it begins at
follows() {
  named=$(member "$1" previous) other='' name=${1#"$folder/"} kind=$2 from=$3
  [ "$named" != null ] || return 0
  set -- "$folder/$timeline/$(pad "$from")"
  case $kind in fine | merged) set -- "$1.$kind.json" ;; *) set -- "$1.json" "${1%/*}/.${1##*/}".wal.*.note ;; esac
  for file in "$@"; do
    [ -f "$file" ] || continue
    [ "$(sum "$file")" != "$named" ] || return 0
    other=$file
  done
  [ -n "$other" ] || return 0
  # Beside a full there may have been a live segment whose note is gone: it was folded, or not fetched.
  case $other in
    *.note | *.fine.json | *.merged.json) ;;
    *) [ "$(member "$other" kind)" != full ] || ! awk -v at="$from" '($1 == "live" || $1 == "fine" || $1 == "merged") && $2 < at && at <= $3 { found = 1 } END { exit !found }' "$work/segments" || return 0 ;;
  esac
  die "what is there of position $from is not what $name was written after"
}

digest='' page_size='' bare=0
while read -r kind from to reached <&3; do
  at=$timeline/$(pad "$to") observed=''
  case $kind in
    fine | merged) manifest=$folder/$at.$kind.json ;;
    live)
      set -- "$folder/$at".wal.*
      [ $# -eq 1 ] || die "there are several live segments to position $to"
      key=$timeline/${1##*/} manifest=$folder/$timeline/.${1##*/}.note ;;
    *) manifest=$folder/$at.json ;;
  esac
  into=$db
  [ "$kind" = full ] || into=$db-wal
  if [ "$kind" = live ] && [ ! -e "$manifest" ]; then
    # Without its note there are no sums. What the log itself tells must fit.
    bare=$((bare + 1))
    present "$key"
    case $key in *.gz | *.gz.age) codec=gzip ;; *.zst | *.zst.age) codec=zstd ;; *) codec='' ;; esac
    case $key in *.age) encrypted=true ;; *) encrypted=false ;; esac
    unpack "$key" "$codec" "$encrypted" "$into"
    length=$(wc -c <"$into") frame=$((24 + page_size))
    sent=$(((length - 32) / frame))
    [ "$length" -ge $((32 + frame)) ] && [ $((32 + sent * frame)) -eq "$length" ] || die "$key is damaged: a log has not $length bytes"
    [ "$(word "$into" 8)" = "$page_size" ] || die "$key is damaged: its pages have another size"
    [ "$(word "$into" 12)" = $((to % 4294967296)) ] || die "$key is the log of another position"
    salts=$(od -A n -t x1 -j 16 -N 8 "$into" | tr -d ' \n')
    [ -z "$digest" ] || [ "$salts" = "$(echo "$digest" | cut -c 1-16)" ] || die "$key does not begin at the state of position $from"
    pages=$(word "$into" $((length - frame + 4)))
    digest=''
  else
    [ -f "$manifest" ] || die "there is no ${manifest#"$folder/"}"
    [ "$kind" = live ] || present "${manifest#"$folder/"}"
    [ "$(member "$manifest" format)" = 1 ] && [ "$(member "$manifest" engine)" = sqlite ] || die "${manifest#"$folder/"} is no manifest of a SQLite database in format 1"
    [ "$(member "$manifest" kind)" = "$kind" ] && [ "$(member "$manifest" to)" = "$to" ] && [ "$timeline" = "t$(printf %06d "$(member "$manifest" timeline)")" ] || die "${manifest#"$folder/"} is the manifest of something else"
    before=$(member "$manifest" digest_before) after=$(member "$manifest" digest_after) key=$(part "$manifest" key)
    # What a key says, too.
    case $kind/$key in
      full/"$at"-*-full-*.db.* | incremental/"$at"-*-incremental-from-"$(pad "${from#-}")"-*.wal.* | fine/"$at"-*-fine-from-"$(pad "${from#-}")"-*.wal.* | merged/"$at"-*-merged-from-"$(pad "${from#-}")"-*.wal.*) ;;
      live/"$at".wal.*) [ "$folder/$timeline/.${key##*/}.note" = "$manifest" ] && [ "$(member "$manifest" from)" = "$from" ] || die "${manifest#"$folder/"} is the note of something else" ;;
      incremental/) [ "$(member "$manifest" object)" = null ] && [ "$before" = "$after" ] || die "${manifest#"$folder/"} is damaged" ;;
      *) die "${manifest#"$folder/"} is damaged: it names $key" ;;
    esac
    if [ "$kind" = full ]; then
      [ "$before" = null ] && [ -n "$after" ] || die "${manifest#"$folder/"} is damaged"
      page_size=$(member "$manifest" page_size)
    else
      [ -n "$before" ] && [ "$before" != null ] && [ -n "$after" ] || die "${manifest#"$folder/"} is damaged"
      # One that begins further back leads on from here, too, but says nothing about here.
      [ -z "$digest" ] || [ "$from" -lt "$state" ] || [ "$before" = "$digest" ] || die "${manifest#"$folder/"} does not begin at the state of position $from: the chain is broken"
      [ "$(member "$manifest" page_size)" = "$page_size" ] || die "${manifest#"$folder/"} has pages of another size"
      follows "$manifest" "$kind" "$from"
      gap=$(member "$manifest" gap_from)
      [ -z "$gap" ] || warn "what was committed from $gap to $(member "$manifest" observed) is in one piece: there are no states between positions $from and $to"
    fi
    [ -z "$key" ] || fetch "$manifest" object "$into"
    pages=$(member "$manifest" pages) sent=$(member "$manifest" sent_pages) digest=$after observed=$(member "$manifest" observed)
    if [ "$reached" != "$to" ]; then
      # The line of the index tells where in the log its transaction ends.
      fetch "$manifest" index "$work/index"
      grep "^{\"position\":$reached," "$work/index" >"$work/line" || die "there is no position $reached in $key"
      pages=$(in_line pages <"$work/line") sent=$(in_line frames <"$work/line") digest=$(in_line digest <"$work/line") observed=$(in_line observed <"$work/line") length=$(in_line plain_bytes <"$work/line")
      [ "$length" -eq $((32 + sent * (24 + page_size))) ] && [ "$length" -le "$(wc -c <"$into")" ] || die "the index of $key is damaged"
      dd if=/dev/null of="$into" bs=1 seek="$length" 2>"$work/said" || { cat "$work/said" >&2; die "the end of $key cannot be cut off"; }
    fi
  fi
  if [ -e "$db-wal" ]; then
    # SQLite must see the log (the first number), and put all of it into the database (the last two).
    answer=$(ask "$db" 'PRAGMA synchronous = OFF; PRAGMA page_size; PRAGMA page_count; PRAGMA wal_checkpoint(FULL);') || die "$at cannot be applied"
    [ "$answer" = "$(printf '%s\n%s\n0|%s|%s' "$page_size" "$pages" "$sent" "$sent")" ] || die "$at cannot be applied: $(echo "$answer" | tr '\n' ' ')instead of $page_size $pages 0|$sent|$sent"
    [ ! -s "$db-wal" ] || die "SQLite left the log of $at"
    rm -f "$db-wal" "$db-shm"
  else
    answer=$(ask "$db" 'PRAGMA page_size; PRAGMA page_count;') || die "$at is no database"
    [ "$answer" = "$(printf '%s\n%s' "$page_size" "$pages")" ] || die "$at has not the pages that its manifest says: $answer"
  fi
  state=$reached
done 3<"$work/way"

if [ -z "${SKIP_CHECK:-}" ]; then
  answer=$(ask "$db" 'PRAGMA integrity_check;') || die "the database cannot be checked; SKIP_CHECK=1 restores it all the same"
  [ "$answer" = ok ] || die "the database is as it was, and damaged: $answer; SKIP_CHECK=1 restores it all the same"
fi
rm -f "$db-wal" "$db-shm"
[ "$(wc -c <"$db")" -eq $((pages * page_size)) ] || die "the file has not the length that its manifest says"
[ "$bare" -eq 0 ] || warn "$bare live segments have no note beside them: nothing is missing between them, but their sums could not be compared (RESTORE.md says how to fetch the notes)"
sync
mv "$db" "$target"
echo "$target is the database at position $place, seen at ${observed:-a time that its note would tell}"
