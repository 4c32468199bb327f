/*
 * From the checked samplesheet to channels: who has what, in which order.
 */

include { path_or_none } from './channels'
include { three_parts } from './messages'
include { unstageable } from './staging'

// samples.json -> [ { index, sample, batch, rna, ..., metadata } ] in samplesheet order
def samples_of(json) {
    def rows = new groovy.json.JsonSlurper().parse(json.toFile()).samples
    return rows.withIndex().collect { row, index -> row + [index: index] }
}

// What goes into tasks as a sample's identity: no path, no metadata and no place in the sheet, so that a task is run
// again only where the sample itself changed
def meta_of(row) {
    return [sample: row.sample]
}

// The identity of a group of samples whose peaks are called together, with a name for its files
def group_meta(group) {
    def plain = group.replaceAll(/[^A-Za-z0-9._-]/, '_')
    return [sample: group, name: plain == group && group ? group : "${plain}-${group.md5().take(8)}".toString()]
}

// The group of a row, by the column that --peak_group names; without one every sample is its own
def group_of(row, column) {
    return column ? (row.metadata.containsKey(column) ? row.metadata[column] : row[column]) : row.sample
}

// Modalities that at least one sample brings, in the one order used everywhere
def modalities_of(rows) {
    return [rna: ['rna'], atac: ['atac', 'fragments'], protein: ['protein']]
        .findAll { _modality, columns -> rows.any { row -> columns.any { column -> row[column] } } }
        .collect { modality, _columns -> modality }
}

// What tells a row's cells apart by hashtags: the file that holds them, and their names where the sheet gives those
def hashtags_of(row) {
    def names = row.hto_features
    return [path_or_none(row.hto ?: names ? row.hto ?: row.protein ?: row.rna : null), names]
}

// A row with what its h5mu gives, as CHECK_INPUTS found: the file stands in the columns of those modalities
def with_held(row, plan) {
    def planned = new groovy.json.JsonSlurper().parse(plan.toFile())
    def held    = row.h5mu ? (planned.samples?.get(row.sample)?.h5mu ?: []) : []
    return row + held.collectEntries { modality -> [modality, row.h5mu] }
}

// Where peaks come from; MACS3 is looked for here, before any heavy step
def peak_set_of(plan) {
    def planned  = new groovy.json.JsonSlurper().parse(plan.toFile())
    def peak_set = planned.peak_set
    planned.warnings.each { warning -> log.warn(warning) }
    def places   = System.getenv('PATH').tokenize(':')
    def found    = workflow.containerEngine || workflow.stubRun || places.any { place -> file("${place}/macs3", glob: false).exists() }
    if (peak_set == 'macs3' && !found) {
        error(three_parts(
            'peaks have to be called, and there is no macs3 here',
            'samples with fragments are counted on one set of peaks, and none is given',
            'type `make macs3` once, or run with images (-profile podman), or give --peaks BED, or --peak_source samples with a column peaks',
        ))
    }
    return peak_set
}

// [ column, path ] of every file that a row names
def files_of(row) {
    return ['rna', 'fragments', 'atac', 'protein', 'h5mu', 'peaks', 'barcodes', 'barcode_map', 'cells', 'hto']
        .findAll { column -> row[column] }
        .collect { column -> [column, row[column]] }
}

// The same of the files that parameters name
def run_files(settings) {
    return ['input', 'contrasts', 'chrom_sizes', 'gtf', 'tss', 'blacklist', 'peaks', 'impute_features', 'reference', 'feature_aliases', 'fasta', 'motifs']
        .findAll { name -> settings[name] && settings[name] != 'all' }
        .collect { name -> [name, settings[name]] }
}

// Values as they stand in the samplesheet for which there is no file. Nextflow looks, since it can see object storage.
def missing_files(sheet) {
    def columns = ['rna', 'fragments', 'atac', 'protein', 'h5mu', 'peaks', 'barcodes', 'barcode_map', 'cells', 'hto']
    def rows    = csv_rows(decoded(bytes_of(sheet)))
    def places  = columns.collect { column -> rows[0].indexOf(column) }.findAll { place -> place >= 0 }
    def values  = rows.drop(1).collectMany { row -> places.collect { place -> row[place] } }
        .findAll { value -> value && !(value =~ /\p{Cntrl}/) }.unique()
    def absent  = values.findAll { value -> !there(resolved(sheet.parent, value)) }
    def wrong   = (values - absent).collectEntries { value -> [(value): unstageable(resolved(sheet.parent, value))] }.findAll { _value, why -> why }
    if (wrong) {
        error(wrong.collect { value, why -> three_parts("${sheet.name}: the path '${value}' ${why}",
            "Nextflow's own scripts leave it unquoted, so that another file, or none, would reach the step",
            'rename the file or its folder (a link will do), and correct the sheet') }.join('\n\n'))
    }
    return absent
}

def bytes_of(sheet) {
    try {
        return sheet.bytes
    }
    catch (IOException problem) {
        error(three_parts("--input ${sheet} cannot be read (${problem.class.simpleName}: ${problem.message})",
            'the samples are named in it', 'name the file of the samplesheet (not its folder), and see that you may read it'))
    }
}

// Whether there is such a file. A Java that was started without a UTF-8 locale cannot even ask for some names.
def there(path) {
    try {
        return file(path, glob: false).exists()
    }
    catch (java.nio.file.InvalidPathException _error) {
        error(three_parts("Nextflow cannot read the file name '${path}' in this session's language settings",
            'letters beyond ASCII need a UTF-8 locale', 'type `export LC_ALL=C.UTF-8` and start the run again'))
    }
}

// The text of a table as Python's multivi_nf.io.text decodes it: UTF-16 or UTF-8 by its marks, else Windows-1252
def decoded(bytes) {
    def marks = (bytes as List).take(2).collect { octet -> octet & 0xff }
    if (marks in [[0xff, 0xfe], [0xfe, 0xff]]) {
        return new String(bytes, 'UTF-16')
    }
    if (marks.size() == 2 && marks.count(0) == 1) {
        return new String(bytes, marks[0] == 0 ? 'UTF-16BE' : 'UTF-16LE')
    }
    try {
        return java.nio.charset.StandardCharsets.UTF_8.newDecoder().decode(java.nio.ByteBuffer.wrap(bytes)).toString()
    }
    catch (java.nio.charset.CharacterCodingException _error) {
        return new String(bytes, 'windows-1252')
    }
}

// The cells of a table's text, trimmed, as RFC 4180 has them, with the separator that the first line has most of (a
// spreadsheet's `sep=;` line says it); what is wrong with it CHECK_SAMPLESHEET says
def csv_rows(text) {
    def bare  = text.replace('\uFEFF', '')
    def named = bare =~ /\A"?sep=(.)"?\r?\n/
    def body  = named.find() ? bare.substring(named.end()) : bare
    def first = body.readLines().find { line -> line.trim() } ?: ''
    def plain = first.replaceAll(/"[^"]*"/, '')
    def mark  = named.reset().find() ? named.group(1) : [',', ';', '\t'].max { sign -> plain.count(sign) }
    def sign  = java.util.regex.Pattern.quote(mark)
    def found = body =~ "(\"(?:[^\"]++|\"\")*+\"|(?:(?!${sign})[^\"\r\n])*+)(${sign}|\r\n|\n|\r|\\z)"
    return found.collect { _whole, cell, end -> [cell, end] }.inject([[]]) { rows, pair ->
        def quoted = pair[0].size() > 1 && pair[0].startsWith('"')
        rows.last() << (quoted ? pair[0][1..-2].replace('""', '"') : pair[0]).trim()
        pair[1] == mark ? rows : rows << []
    }
}

def resolved(base, path) {
    return path ==~ '^([a-z0-9]+:/)?/.*' ? path : "${base.toUriString()}/${path}"
}
