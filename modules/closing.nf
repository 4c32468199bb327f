/*
 * What is said and written at the start and at the end of a run.
 */

include { three_parts                  } from './messages'
include { is_published                 } from './published'
include { parameters_text ; write_info } from './record'

def write_parameters(settings) {
    write_info(settings, 'params.json', parameters_text(settings))
}

// Checkpoints need a file system that a running task can write to
def checkpoint_notice(settings) {
    def remote = settings.outdir.toString() ==~ /[A-Za-z][A-Za-z0-9+.-]*:\/.*/
    return !remote || settings.checkpoint_dir ? '' :
        "--outdir is on object storage and no --checkpoint_dir is given: a training that is retried starts from the beginning. " +
        'Name a file system that tasks mount with --checkpoint_dir'
}

// Only what this run made: a folder that is used again may hold results of other samples
def success_text(outdir) {
    if (workflow.preview) {
        return 'Nothing was run: -preview shows only that parameters and workflow hold together.'
    }
    def parts = [
        ['multivi.h5mu', 'cells, embedding, UMAP, clusters'], ['imputed', 'imputed values with error bars'],
        ['differential', 'contrasts'], ['pipeline_info', 'what repeats the run'],
    ].findAll { place, _what -> is_published(place) }
    def page  = is_published('report.html') ? 'report.html' : is_published('benchmark') ? 'benchmark/benchmark.html' : ''
    def first = page ? "Done. Look first at ${outdir}/${page}" : "Done. Results are in ${outdir}"
    return '\n' + ([first] + parts.collect { place, what -> "  ${outdir}/${place.padRight(16)} ${what}" }).join('\n')
}

// The three-part message of the task that failed, once more, after Nextflow's own block
def failure_text() {
    def report  = workflow.errorReport ?: ''
    def folder  = (report =~ /(?s)Work dir:\s+(\S[^\n]*)/).collect { found -> found[1].trim() }
    def errors  = folder ? file("${folder[0]}/.command.err", glob: false) : null
    def text    = errors && errors.exists() ? errors.text : ''
    def started = text.indexOf('ERROR: ')
    if (started >= 0) {
        return text.substring(started).trim()
    }
    def image = (report + text) =~ /multivi-nf-(?:cpu|cuda|macs3)[:\w.-]*/
    if (image && report =~ /exit status \(125\)|no such image|manifest unknown|unable to find image/) {
        return three_parts("the image ${image[0]} is not on this machine", 'the step runs inside it',
            'type `make images` here, or name where images lie: --container_registry PREFIX or FOLDER')
    }
    return ''
}

// How far training is, from the line that TRAIN keeps beside its checkpoints: at most one a minute, none where they are remote
def watch_training(settings) {
    def place = (settings.checkpoint_dir ?: "${settings.outdir}/checkpoints").toString()
    if (place ==~ /[A-Za-z][A-Za-z0-9+.-]*:\/.*/) {
        return null
    }
    def notice = java.nio.file.Path.of(place).toAbsolutePath().resolve('progress.txt').toFile()
    def timer  = new java.util.Timer('training', true) // a daemon: it ends with the run
    def look   = {
        def fresh = notice.exists() && System.currentTimeMillis() - notice.lastModified() < 60000
        fresh ? log.info("TRAIN: ${notice.text.trim()}") : null
    }
    timer.schedule(look as java.util.TimerTask, 60000, 60000)
    return timer
}
