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
manifest_words='' note_words='h'
for object in object index; do
  o=${object%"${object#?}"}
  manifest_words="$manifest_words
/^  \"$object\": {\$/,/^  }/{
s/^    \"key\": \"\(.*\)\",\{0,1\}\$/${o}_key \1/p
s/^    \"codec\": \"\(.*\)\",\{0,1\}\$/${o}_codec \1/p
s/^    \"encrypted\": \([a-z]*\),\{0,1\}\$/${o}_encrypted \1/p
/^    \"stored\": {\$/,/^    }/s/^      \"sha256\": \"\(.*\)\",\{0,1\}\$/${o}_stored \1/p
/^    \"plain\": {\$/,/^    }/s/^      \"sha256\": \"\(.*\)\",\{0,1\}\$/${o}_plain \1/p
}"
done
manifest_words="$manifest_words
s/^  \"\([a-z_]*\)\": \"\{0,1\}\([^\"]*[^\",]\)\"\{0,1\},\{0,1\}\$/m_\1 \2/p"
# What prints a member of a line, behind some words.
in_line() { printf '%s\n' "s/^.*[{,]\"$1\":\"\{0,1\}\([^\",}]*\)[\",}].*\$/$2\1/p"; }
for name in format engine kind timeline from to observed page_size pages sent_pages digest_before digest_after previous; do
  note_words="$note_words
g;$(in_line $name "m_$name ")"
done
for name in key codec encrypted; do
  note_words="$note_words
g;$(in_line $name "o_$name ")"
done
for name in stored plain; do
  note_words="$note_words
g;s/^.*,\"$name\":{\"bytes\":[0-9]*,\"sha256\":\"\([0-9a-f]*\)\"}.*\$/o_$name \1/p"
done
# load FILE: what a manifest or a note says, as variables: its own members m_…, those of its object o_…, those of its index i_…; SHA-256s are o_stored and o_plain
load() {
  m_format='' m_engine='' m_kind='' m_timeline='' m_from='' m_to='' m_observed='' m_object='' m_page_size='' m_pages='' m_sent_pages='' m_digest_before='' m_digest_after='' m_previous='' m_gap_from=''
  o_key='' o_codec='' o_encrypted='' o_stored='' o_plain='' i_key='' i_codec='' i_encrypted='' i_stored='' i_plain=''
  case $1 in *.note) words=$note_words ;; *) words=$manifest_words ;; esac
  words=$(sed -n "$words" "$1")
  while read -r name value; do
    case $name in
      m_format | m_engine | m_kind | m_timeline | m_from | m_to | m_observed | m_object | m_page_size | m_pages | m_sent_pages | m_digest_before | m_digest_after | m_previous | m_gap_from | [oi]_key | [oi]_codec | [oi]_encrypted | [oi]_stored | [oi]_plain) eval "$name=\$value" ;;
    esac
  done <<END
$words
END
}
# sum FILE: its SHA-256 as $sum. A note has no line feed, but what wrote the file may have added one.
sum() { case $1 in *.note) sum=$(tr -d '\n' <"$1" | sha256sum) ;; *) sum=$(sha256sum <"$1") ;; esac; sum=${sum%% *}; }
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

# Whether FILE is there, and what SHA256SUMS says. That is written once in a while, so that the newest files may not be in it; live segments never are.
present() {
  [ -f "$folder/$1" ] || die "there is no $1"
  case $1 in t??????/??????????.wal.*) return 0 ;; esac
  [ ! -f "$folder/SHA256SUMS" ] || ! line=$(grep "^[0-9a-f]*  $1\$" "$folder/SHA256SUMS") || { sum "$folder/$1" && [ "${line%% *}" = "$sum" ]; } || die "$1 does not have the sum in SHA256SUMS"
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
# fetch KEY CODEC ENCRYPTED INTO STORED PLAIN: unpacks it, and compares the sums
fetch() {
  present "$1"
  sum "$folder/$1"; [ "$sum" = "$5" ] || die "$1 is damaged: it does not have the sum in ${manifest#"$folder/"}"
  unpack "$1" "$2" "$3" "$4"
  sum "$4"; [ "$sum" = "$6" ] || die "$1 is damaged: what is in it does not have the sum in ${manifest#"$folder/"}"
}
# What was loaded was written after what is there of the state that it begins at.
follows() {
  other=''
  [ "$m_previous" != null ] || return 0
  set -- "$folder/$timeline/$(pad "$from")"
  case $kind in fine | merged) set -- "$1.$kind.json" ;; *) set -- "$1.json" "${1%/*}/.${1##*/}".wal.*.note ;; esac
  for file in "$@"; do
    [ -f "$file" ] || continue
    sum "$file"; [ "$sum" != "$m_previous" ] || return 0
    other=$file
  done
  [ -n "$other" ] || return 0
  # Beside a full there may have been a live segment whose note is gone: it was folded, or not fetched.
  case $other in
    *.note | *.fine.json | *.merged.json) ;;
    *) ! grep -q '^  "kind": "full",$' "$other" || ! awk -v at="$from" '($1 == "live" || $1 == "fine" || $1 == "merged") && $2 < at && at <= $3 { found = 1 } END { exit !found }' "$work/segments" || return 0 ;;
  esac
  die "what is there of position $from is not what ${manifest#"$folder/"} was written after"
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
    load "$manifest"
    [ "$m_format" = 1 ] && [ "$m_engine" = sqlite ] || die "${manifest#"$folder/"} is no manifest of a SQLite database in format 1"
    [ "$m_kind" = "$kind" ] && [ "$m_to" = "$to" ] && [ "$timeline" = "t$(printf %06d "$m_timeline")" ] || die "${manifest#"$folder/"} is the manifest of something else"
    # What a key says, too.
    case $kind/$o_key in
      full/"$at"-*-full-*.db.* | incremental/"$at"-*-incremental-from-"$(pad "${from#-}")"-*.wal.* | fine/"$at"-*-fine-from-"$(pad "${from#-}")"-*.wal.* | merged/"$at"-*-merged-from-"$(pad "${from#-}")"-*.wal.*) ;;
      live/"$key") [ "$m_from" = "$from" ] || die "${manifest#"$folder/"} is the note of something else" ;;
      incremental/) [ "$m_object" = null ] && [ "$m_digest_before" = "$m_digest_after" ] || die "${manifest#"$folder/"} is damaged" ;;
      *) die "${manifest#"$folder/"} is damaged: it names $o_key" ;;
    esac
    key=$o_key
    if [ "$kind" = full ]; then
      [ "$m_digest_before" = null ] && [ -n "$m_digest_after" ] || die "${manifest#"$folder/"} is damaged"
      page_size=$m_page_size
    else
      [ -n "$m_digest_before" ] && [ "$m_digest_before" != null ] && [ -n "$m_digest_after" ] || die "${manifest#"$folder/"} is damaged"
      # One that begins further back leads on from here, too, but says nothing about here.
      [ -z "$digest" ] || [ "$from" -lt "$state" ] || [ "$m_digest_before" = "$digest" ] || die "${manifest#"$folder/"} does not begin at the state of position $from: the chain is broken"
      [ "$m_page_size" = "$page_size" ] || die "${manifest#"$folder/"} has pages of another size"
      follows
      [ -z "$m_gap_from" ] || warn "what was committed from $m_gap_from to $m_observed is in one piece: there are no states between positions $from and $to"
    fi
    [ -z "$key" ] || fetch "$key" "$o_codec" "$o_encrypted" "$into" "$o_stored" "$o_plain"
    pages=$m_pages sent=$m_sent_pages digest=$m_digest_after observed=$m_observed
    if [ "$reached" != "$to" ]; then
      # The line of the index tells where in the log its transaction ends.
      fetch "$i_key" "$i_codec" "$i_encrypted" "$work/index" "$i_stored" "$i_plain"
      grep "^{\"position\":$reached," "$work/index" >"$work/line" || die "there is no position $reached in $key"
      pages=$(sed -n "$(in_line pages '')" "$work/line") sent=$(sed -n "$(in_line frames '')" "$work/line") length=$(sed -n "$(in_line plain_bytes '')" "$work/line")
      digest=$(sed -n "$(in_line digest '')" "$work/line") observed=$(sed -n "$(in_line observed '')" "$work/line")
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
