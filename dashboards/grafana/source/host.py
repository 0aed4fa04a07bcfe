"""The machine, under the names of node_exporter, and what the sidecar itself takes of it."""
from model import PLAIN, BAD, dashboard, down_to, series, stat, up_to

DAY = 86_400
BUSY = '1 - avg by (instance) (rate(node_cpu_seconds_total<mode="idle">[$__rate_interval]))'

# What the overview shows as well.
def fullest_disk(**more):
    return stat(
        "Fullest disk: free", "percentunit", "min(node_filesystem_avail_bytes<> / (node_filesystem_size_bytes<> > 0))",
        "The free share of the file system that has the least. Orange below 20 % and red below 10 %: SQLite needs room for its write-ahead log, and upkeep stops without.",
        "not measured", down_to(0.2, 0.1), decimals=0, **more,
    )


NOW = [
    stat(
        "Busy processors", "percentunit", f"max({BUSY})",
        "The share of all processors' time that was used. Orange from 70 % on, where `upkeep` waits by default; red from 95 % on, where everybody does.",
        "not measured", up_to(0.7, 0.95), decimals=0,
    ),
    stat(
        "Available memory", "percentunit", "min(node_memory_MemAvailable_bytes<> / node_memory_MemTotal_bytes<>)",
        "What programs can still get. Orange below 15 % and red below 5 %: the kernel soon ends a process.",
        "not measured", down_to(0.15, 0.05), decimals=0,
    ),
    fullest_disk(),
    stat(
        "Least free in four days", "bytes", f"min(predict_linear(node_filesystem_avail_bytes<>[6h], {4 * DAY}))",
        "What the fullest file system will have free in four days (a long weekend), if it goes on as in the last six hours. Red where that is nothing, orange below a GiB.",
        "not measured", down_to(2**30, 1),
    ),
    stat(
        "Killed for want of memory (24 h)", "short", "sum(round(increase(node_vmstat_oom_kill<>[24h])))",
        "Processes that the kernel ended in the last day. Red from 1 on: the kernel's log names them.",
        "not measured", BAD,
    ),
    stat(
        "Up since", "s", "min(time() - node_boot_time_seconds<>)",
        "The time since the machine that started last did so.", "not measured", PLAIN,
    ),
]

USE = [
    series(
        "Processor time by mode", "percentunit",
        [('avg by (mode) (rate(node_cpu_seconds_total<mode!="idle">[$__rate_interval]))', "{{mode}}")],
        "Shares of all processors' time. Much `iowait`: the disk does not keep up. `steal`: the machine is a virtual one whose host is busy.",
        "not measured", stacked=True, max=1,
    ),
    series(
        "Load", "short",
        [("max by (instance) (node_load1<>)", "1 min {{instance}}"), ("max by (instance) (node_load15<>)", "15 min {{instance}}"),
         ('count by (instance) (rate(node_cpu_seconds_total<mode="idle">[$__rate_interval]))', "processors {{instance}}")],
        "Processes that run or wait for a disk. Above the number of processors for long, they wait for each other.",
        "not measured",
    ),
    series(
        "Waiting", "percentunit",
        [("max by (instance) (rate(node_pressure_cpu_waiting_seconds_total<>[$__rate_interval]))", "for a processor"),
         ("max by (instance) (rate(node_pressure_io_waiting_seconds_total<>[$__rate_interval]))", "for a disk"),
         ("max by (instance) (rate(node_pressure_memory_waiting_seconds_total<>[$__rate_interval]))", "for memory")],
        "The share of time in which somebody waited: the kernel's pressure stall information, the best single measure of too small a machine.",
        "this kernel does not tell", max=1,
    ),
    series(
        "Memory", "bytes",
        [("sum(node_memory_MemTotal_bytes<>)", "all"), ("sum(node_memory_MemAvailable_bytes<>)", "available"),
         ("sum(node_memory_SwapTotal_bytes<>) - sum(node_memory_SwapFree_bytes<>)", "in swap")],
        "`available` is what programs can still get, caches that would be given up included.", "not measured",
    ),
    series(
        "Free space", "bytes", [("min by (instance, mountpoint) (node_filesystem_avail_bytes<>)", "{{mountpoint}} {{instance}}")],
        "What users other than root can write. The slope matters more than the height.", "not measured",
    ),
    series(
        "Free file nodes", "percentunit", [("min by (instance, mountpoint) (node_filesystem_files_free<> / (node_filesystem_files<> > 0))", "{{mountpoint}} {{instance}}")],
        "Without them a disk is full, however much room it has.", "not measured", max=1,
    ),
    series(
        "Disk traffic", "Bps",
        [("sum by (device) (rate(node_disk_read_bytes_total<>[$__rate_interval]))", "{{device}} read"),
         ("sum by (device) (rate(node_disk_written_bytes_total<>[$__rate_interval]))", "{{device}} written")],
        "On an SD card much writing is wear: a longer `scrape.interval` writes less.", "not measured",
    ),
    series(
        "Busy disks", "percentunit", [("max by (device) (rate(node_disk_io_time_seconds_total<>[$__rate_interval]))", "{{device}}")],
        "The share of time in which a disk had something to do. At 100 % a single disk does not keep up; an SSD may still do more at once.", "not measured", max=1,
    ),
    series(
        "Network", "Bps",
        [('sum by (device) (rate(node_network_receive_bytes_total<device!="lo">[$__rate_interval]))', "{{device}} in"),
         ('sum by (device) (rate(node_network_transmit_bytes_total<device!="lo">[$__rate_interval]))', "{{device}} out")],
        "Backups go out here.", "not measured",
    ),
    series(
        "Temperature", "celsius",
        [("max by (type) (node_thermal_zone_temp<>)", "{{type}}"), ("max by (chip, sensor) (node_hwmon_temp_celsius<>)", "{{chip}} {{sensor}}")],
        "A Raspberry Pi makes itself slower from 80 °C on.", "no sensors, as in a virtual machine", from_zero=False,
    ),
]

SELF = [
    series(
        "Sidecar: processor", "percentunit", [("max by (instance) (rate(process_cpu_seconds_total<>[$__rate_interval]))", "{{instance}}")],
        "Of one processor. Backups and roll-ups are peaks.", "not measured",
    ),
    series(
        "Sidecar: memory", "bytes", [("max by (instance) (process_resident_memory_bytes<>)", "{{instance}}")],
        "What is in memory of it. It should not grow for days.", "not measured",
    ),
]

DASHBOARD = dashboard(
    "host", "Host", "The machine, and what the sidecar takes of it.", "24h",
    [NOW, "Use", USE + SELF],
)
