/*
 * The folder of results: one run at a time, nothing of the user's replaced, and a manifest of what this run made.
 */

include { published   } from './published'
include { three_parts } from './messages'

def beat_seconds() { 5 }
def stale_text() { System.getenv('MULTIVI_NF_STALE_SECONDS') ?: '60' }
def stale_seconds() { Math.max(1, Math.ceil(stale_text().toDouble()) as int) }

// Names of the files under --outdir that a run may write, and the step that writes them; the first that fits counts
def places() {
    return [
        [~/report\.html|verdict\.tsv|multiqc\/.*/, 'REPORT'], [~/multivi\.h5mu/, 'EMBED'], [~/model\/.*/, 'CALIBRATE'],
        [~/(cells\.tsv\.gz|clusters\.tsv|markers\/[^\/]+\.tsv\.gz|h5ad\/[^\/]+\.h5ad)/, 'EXPORT'], [~/explorer\.html/, 'EXPLORER'],
        [~/imputed\/[^\/]+\.(zarr\/.*|vitessce\.json)/, 'GATHER'], [~/differential\/[^\/]+\.tsv\.gz/, 'DIFFERENTIAL'], [~/qc\/.*/, 'QC'],
        [~/peaks\/[^\/]+\.bed/, 'MERGE_PEAKS'], [~/mosaic\/mosaic\.h5mu/, 'MOSAIC'], [~/regulation\/.*/, 'REGULATION'],
        [~/controls\.tsv/, 'CONTROLS'], [~/benchmark\/[^\/]+/, 'BENCHMARK_PAGE'],
        [~/pipeline_info\/resources\/[^\/]+\.json/, 'resources'], [~/pipeline_info\/[^\/]+/, 'Workflow'],
    ]
}

def step_of(name) {
    return places().find { place -> name ==~ place[0] }?.get(1)
}

// What stands at a place of results without being one, by its first bytes; the rest of a file is not looked at
def is_foreign(path, name) {
    if (java.nio.file.Files.size(path) == 0) {
        return false
    }
    if (!java.nio.file.Files.isReadable(path)) {
        return true
    }
    def text  = head_of(path, false)
    def heads = [
        'manifest.tsv': 'path\tsize\tsha256\tstep', 'verdict.tsv': 'question\t', 'clusters.tsv': 'cluster\t', 'controls.tsv': 'measure\t',
        'cells.tsv.gz': 'cell\t',
    ]
    if (name in heads) {
        return !head_of(path, name.endsWith('.gz')).startsWith(heads[name])
    }
    def rules = [
        [~/markers\/.*\.gz/, { head_of(path, true).startsWith('cluster\t') }],
        [~/differential\/.*\.gz/, { head_of(path, true) ==~ /(?s)(feature|target)\t.*/ }],
        [~/peaks\/.*\.bed/, { text ==~ /(?s)\S+\t\d+\t\d+\s.*/ }],
        [~/.*\.(h5mu|h5ad)/, { text.contains('\u0089HDF\r\n\u001a\n') || text.startsWith('MuData') }],
        [~/.*\.gz/, { text.startsWith('\u001f\u008b') }],
        [~/.*\.json/, { text.trim()[0] in ['{', '['] }],
        [~/(report|explorer)\.html/, { text.toLowerCase().contains('<!doctype html>') && text.contains('multivi-nf') }],
    ]
    def rule = rules.find { one -> name ==~ one[0] }
    return rule ? !rule[1].call() : false
}

// The first bytes of a file as text; none of a packed one that cannot be unpacked
def head_of(path, packed) {
    try {
        return path.withInputStream { stream ->
            new String((packed ? new java.util.zip.GZIPInputStream(stream) : stream).readNBytes(4096), 'ISO-8859-1')
        }
    }
    catch (IOException _damaged) {
        return ''
    }
}

def is_remote(outdir) {
    return outdir.toString() ==~ /[A-Za-z][A-Za-z0-9+.-]*:\/.*/
}

// Folders of results; whatever else lies in --outdir (a home, a disk, a link to /) is not looked through
def own_folders() {
    return ['multiqc', 'model', 'markers', 'h5ad', 'imputed', 'differential', 'qc', 'peaks', 'mosaic', 'regulation', 'benchmark', 'pipeline_info']
}

/*
 * Files of results below a folder, and those that stand in it: [ path from it: path ]. A link to a folder is followed, as
 * results may be published as links, but none behind it and none that leads above; what cannot be read is left out.
 */
def files_below(root, names) {
    def own = (own_folders() + names.collect { name -> name.tokenize('/')[0] }).toSet()
    def top = entries(java.nio.file.Paths.get(root.toString()))
    return top.findAll { path -> path.fileName.toString() in own || !java.nio.file.Files.isDirectory(path) }
        .collectEntries { path -> below(path, path.fileName.toString(), real_path(root), false) }
}

def entries(folder) {
    try {
        return java.nio.file.Files.newDirectoryStream(folder).withCloseable { stream -> stream.toList() }
    }
    catch (IOException _unreadable) {
        return []
    }
    catch (java.nio.file.DirectoryIteratorException _unreadable) {
        return []
    }
}

def below(path, name, root, linked) {
    if (java.nio.file.Files.isRegularFile(path)) {
        return [(name): path]
    }
    def link = java.nio.file.Files.isSymbolicLink(path)
    def real = link ? real_path(path) : path
    def ends = !java.nio.file.Files.isDirectory(path) || (link && (linked || !real || root.startsWith(real)))
    return ends ? [:] : entries(path).collectEntries { one -> below(one, "${name}/${one.fileName}".toString(), root, linked || link) }
}

// Where a path leads; null where that cannot be told
def real_path(path) {
    try {
        return java.nio.file.Paths.get(path.toString()).toRealPath()
    }
    catch (IOException _nowhere) {
        return null
    }
}

// [ name ] of the files that the last run listed as its own, or as left by those before
def listed(root) {
    def manifest = file("${root}/manifest.tsv", glob: false)
    def lines    = manifest.isFile() ? text_of(manifest).readLines().drop(1) : []
    return lines.collect { line -> line.tokenize('\t')[0] }.findAll { name -> name?.tokenize('/') }.toSet()
}

// The text of a small file, whatever its bytes: what is no text is somebody's all the same
def text_of(path) {
    return new String(java.nio.file.Files.readAllBytes(path), 'UTF-8')
}

def unwritable(settings, problem) {
    return three_parts("--outdir ${settings.outdir} cannot be written (${problem.class.simpleName}: ${problem.message})",
        'results would be lost at the end of each step', 'free space there, or name a folder that you may write or make with --outdir')
}

/*
 * Before anything else: a folder that can be written, in which no other run works and no file of the user's would be
 * replaced. Gives the text of the problem, or an empty one.
 */
def outdir_problem(settings) {
    if (is_remote(settings.outdir)) {
        return ''
    }
    def root  = file(settings.outdir, glob: false)
    def known = [].toSet()
    try {
        root.mkdirs()
        java.nio.file.Files.createDirectories(root.resolve('pipeline_info'))
        java.nio.file.Files.createTempFile(root.resolve('pipeline_info'), '.probe', '')
        entries(root.resolve('pipeline_info')).findAll { path -> path.fileName.toString() ==~ /\.probe\d+/ && java.nio.file.Files.isRegularFile(path) }
            .each { path -> java.nio.file.Files.deleteIfExists(path) } // what a killed run left, too
        known = listed(root)
    }
    catch (IOException problem) {
        return unwritable(settings, problem)
    }
    def looked  = files_below(root, known).findAll { name, _path -> name == 'manifest.tsv' || (step_of(name) && !(name in known)) }
    def foreign = looked.findAll { name, path -> !name.startsWith('pipeline_info/') && is_foreign(path, name) }
    if (file("${root}/manifest.tsv", glob: false).isDirectory()) {
        foreign['manifest.tsv'] = root
    }
    return !foreign ? '' : three_parts("--outdir ${settings.outdir} holds ${foreign.keySet().sort().take(3).join(', ')}, which no run of this pipeline wrote",
        'a result of this run would take its place', 'name another folder with --outdir, or move the file away')
}

def lock_of(settings) {
    return java.nio.file.Paths.get(file(settings.outdir, glob: false).toString(), 'pipeline_info', '.run.lock')
}

def first_line(path) {
    return java.nio.file.Files.isRegularFile(path) ? (text_of(path).readLines() ?: [''])[0] : ''
}

// What tells this process from others: machine since its start, space of process ids, process, when it began
def identity() {
    def boot  = java.nio.file.Paths.get('/proc/sys/kernel/random/boot_id')
    def space = java.nio.file.Paths.get('/proc/self/ns/pid')
    def host  = java.nio.file.Paths.get('/proc/sys/kernel/hostname') // no look-up, which a machine without network fails
    def me    = ProcessHandle.current()
    return [
        host: host.exists() ? host.text.trim() : (System.getenv('HOSTNAME') ?: ''), boot: boot.exists() ? boot.text.trim() : '',
        space: java.nio.file.Files.exists(space) ? java.nio.file.Files.readSymbolicLink(space).toString() : '',
        pid: me.pid(), started: me.info().startInstant().map { instant -> instant.toEpochMilli() }.orElse(0L),
    ]
}

def is_gone(holder) {
    def mine = identity()
    if (['host', 'boot', 'space'].any { name -> holder[name] != mine[name] }) {
        return false // on another machine: only its silence tells
    }
    def found = ProcessHandle.of(holder.pid as long).filter { handle -> handle.isAlive() }
    return !found.isPresent() || found.get().info().startInstant().map { instant -> instant.toEpochMilli() }.orElse(0L) != (holder.started as long)
}

/*
 * One run at a time: the lock names its run and changes every five seconds. It is taken over at once if its process has
 * ended on this machine, and after a minute of silence if it was on another. Gives the text of the problem, or an empty one.
 */
def take_outdir(settings) {
    if (is_remote(settings.outdir)) {
        return ''
    }
    if (!(stale_text() ==~ /[0-9]{1,6}(\.[0-9]+)?/)) {
        return three_parts("the environment variable MULTIVI_NF_STALE_SECONDS is '${stale_text()}'", 'it is not a time',
            'set it to a number of seconds above 0')
    }
    def lock    = lock_of(settings)
    if (java.nio.file.Files.exists(lock) && !java.nio.file.Files.isRegularFile(lock)) {
        return three_parts("--outdir ${settings.outdir} holds pipeline_info/.run.lock, which is no file",
            'runs tell each other by it that they work there', 'remove it, or name another folder with --outdir')
    }
    // An empty one is of a machine that lost its power, or of a run that has just begun: its silence tells, as of any stranger
    def there   = java.nio.file.Files.exists(lock)
    def seen    = first_line(lock)
    def holder  = parsed(seen)
    if (there && !is_gone(holder) && (is_here(holder) || changes(lock, seen, stale_seconds()))) {
        holder = parsed(first_line(lock) ?: seen)
        return three_parts("--outdir ${settings.outdir} is in use by the run '${holder.run}' (process ${holder.pid} on ${holder.host})",
            'two runs in one folder would mix their results', 'wait for that run, or name another folder with --outdir')
    }
    def content = identity() + [run: workflow.runName, token: UUID.randomUUID().toString()]
    try {
        if (there) {
            java.nio.file.Files.deleteIfExists(lock)
        }
        java.nio.file.Files.createFile(lock)
    }
    catch (java.nio.file.FileAlreadyExistsException _other) {
        return three_parts("--outdir ${settings.outdir} was taken by another run at this very moment",
            'two runs in one folder would mix their results', 'wait for that run, or name another folder with --outdir')
    }
    catch (IOException problem) {
        return unwritable(settings, problem)
    }
    System.setProperty('multivi_nf.lock', content.token)
    try {
        show_life(lock, content)
    }
    catch (IOException problem) {
        lock.toFile().delete() // if the disk lets it: an empty one is taken over
        return unwritable(settings, problem)
    }
    def timer = java.util.concurrent.Executors.newSingleThreadScheduledExecutor { task ->
        def thread = new Thread(task as Runnable, 'outdir')
        thread.daemon = true
        thread
    }
    timer.scheduleAtFixedRate({ -> beat(lock, content) } as Runnable, beat_seconds(), beat_seconds(), java.util.concurrent.TimeUnit.SECONDS)
    return ''
}

// One line, as long every time, written over the last one: it needs no further space and is never half there
def show_life(lock, content) {
    def line = groovy.json.JsonOutput.toJson(content + [beat: System.currentTimeMillis()]) + '\n'
    java.nio.file.Files.write(lock, line.getBytes('UTF-8'), java.nio.file.StandardOpenOption.WRITE)
}

// A file server that fails once is asked again in five seconds; a lock that is another's, or gone, is left so
def beat(lock, content) {
    try {
        is_mine(lock) ? show_life(lock, content) : null
    }
    catch (IOException _later) {
        log.debug('the lock of --outdir cannot be written at this moment')
    }
}

// What a lock says; what is cut or of another kind says that nobody is known
def parsed(line) {
    def found = null
    try {
        found = new groovy.json.JsonSlurper().parseText(line)
    }
    catch (Exception _cut) {
        found = null
    }
    def told = found instanceof Map ? found : [:]
    return [host: '?', run: '?'] + told + [pid: number(told.pid), started: number(told.started)]
}

def number(value) {
    return value instanceof Number ? value as long : -1L
}

def is_here(holder) {
    def mine = identity()
    return ['host', 'boot', 'space'].every { name -> holder[name] == mine[name] }
}

// Whether the lock shows life within so many seconds; asked every second
def changes(lock, seen, seconds) {
    log.info("Another run may work in this --outdir: waiting up to ${seconds} s for a sign of life")
    return (1..seconds).any { _second ->
        sleep(1000)
        first_line(lock) != seen && first_line(lock)
    }
}

def is_mine(lock) {
    def line = first_line(lock)
    return line && parsed(line).token == System.getProperty('multivi_nf.lock')
}

def release_outdir(settings) {
    def lock = is_remote(settings.outdir) ? null : lock_of(settings)
    try {
        lock && is_mine(lock) ? java.nio.file.Files.deleteIfExists(lock) : null
    }
    catch (IOException _failing) {
        log.debug('the lock of --outdir cannot be removed: the next run takes it over')
    }
}

def sha256(path) {
    def digest = java.security.MessageDigest.getInstance('SHA-256')
    path.eachByte(1 << 20) { bytes, n -> digest.update(bytes, 0, n) }
    return digest.digest().encodeHex().toString()
}

// Whether a file is at, or below, a place that this run published
def is_within(name, places) {
    def parts = name.tokenize('/')
    return (1..parts.size()).any { n -> parts.take(n).join('/') in places }
}

// Nextflow's own pages of a run
def pages(suffix) {
    return ['execution_report_%s.html', 'execution_timeline_%s.html', 'execution_trace_%s.txt', 'pipeline_dag_%s.html']
        .collect { name -> 'pipeline_info/' + String.format(name, suffix) }
}

// [ path, size, sha256, step ] of one file, or null: not a result
def manifest_row(name, path, mine, known, suffix) {
    def size = java.nio.file.Files.size(path).toString()
    if (name in pages(suffix)) {
        return null // told below: some are made after this
    }
    if (is_within(name, mine)) {
        return [name, size, sha256(path), step_of(name) ?: 'Workflow']
    }
    def hidden = name.tokenize('/').last().startsWith('.')
    return (name in known || step_of(name)) && !hidden ? [name, size, '', 'stale'] : null
}

/*
 * manifest.tsv: every file of this run with size, SHA-256 and step. What a former run left and this one did not make is
 * named as stale, without a digest. Nextflow's own pages are still being written: they have neither size nor digest.
 * Gives the text of the problem, or an empty one.
 */
def write_manifest(settings) {
    def root = file(settings.outdir, glob: false)
    def part = root.resolve('.manifest.tsv.part')
    try {
        def text = is_remote(settings.outdir) ? '' : manifest_text(root, settings.trace_report_suffix.toString())
        if (text) {
            part.text = text
            java.nio.file.Files.move(part, root.resolve('manifest.tsv'), java.nio.file.StandardCopyOption.REPLACE_EXISTING, java.nio.file.StandardCopyOption.ATOMIC_MOVE)
        }
        return ''
    }
    catch (IOException problem) {
        part.toFile().delete()
        return three_parts("${settings.outdir}/manifest.tsv cannot be written (${problem.class.simpleName}: ${problem.message})",
            'it tells what this run made and what others left: an older one does not know', 'free space there, then run the same again with -resume')
    }
}

// Empty where nothing was made: then nothing is told
def manifest_text(root, suffix) {
    def mine  = published()
    def known = listed(root)
    def found = files_below(root, mine + known).findAll { name, _path -> name != 'manifest.tsv' }
    def rows  = found.keySet().sort().collect { name -> manifest_row(name, found[name], mine, known, suffix) } - null
    def own   = pages(suffix).collect { name -> [name, '', '', 'Nextflow'] }
    return rows.every { row -> row[0].startsWith('pipeline_info/') } ? '' :
        'path\tsize\tsha256\tstep\n' + (rows + own).sort { row -> row[0] }.collect { row -> row.join('\t') + '\n' }.join()
}
