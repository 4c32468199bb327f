/*
 * From the checked samplesheet to channels: who has what, in which order.
 */

include { three_parts } from './messages'

// samples.json -> [ { index, sample, batch, rna, ..., metadata } ] in samplesheet order
def samples_of(json) {
    def rows = new groovy.json.JsonSlurper().parse(json.toFile()).samples
    return rows.withIndex().collect { row, index -> row + [index: index] }
}

// What goes into tasks as a sample's identity: no paths, no metadata, so that neither changes a task's hash
def meta_of(row) {
    return [sample: row.sample, index: row.index]
}

// A path of the samplesheet, or [] where the cell is empty: an input that is not there
def path_or_none(path) {
    return path ? file(path, glob: false) : []
}

// Modalities that at least one sample brings, in the one order used everywhere
def modalities_of(rows) {
    return [rna: ['rna'], atac: ['atac', 'fragments'], protein: ['protein']]
        .findAll { _modality, columns -> rows.any { row -> columns.any { column -> row[column] } } }
        .collect { modality, _columns -> modality }
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

// [ contrast ] of --contrasts, or by default every cluster against the rest in every modality, where there are two
def contrasts_of(json) {
    def given = new groovy.json.JsonSlurper().parse(json.toFile()).contrasts
    return given ?: modalities_of(samples_of(json)).collect { modality ->
        [contrast: "cluster_${modality}", modality: modality, groupby: 'cluster', target: 'each', reference: 'rest', cells: 'observed', optional: true]
    }
}

// [ column, path ] of every file that a row names
def files_of(row) {
    return ['rna', 'fragments', 'atac', 'protein', 'peaks', 'barcodes', 'barcode_map']
        .findAll { column -> row[column] }
        .collect { column -> [column, row[column]] }
}

// The same of the files that parameters name
def run_files(settings) {
    return ['input', 'contrasts', 'chrom_sizes', 'gtf', 'tss', 'blacklist', 'peaks', 'impute_features', 'reference']
        .findAll { name -> settings[name] && settings[name] != 'all' }
        .collect { name -> [name, settings[name]] }
}

// Values as they stand in the samplesheet for which there is no file. Nextflow looks, since it can see object storage.
def missing_files(sheet) {
    def columns = ['rna', 'fragments', 'atac', 'protein', 'peaks', 'barcodes', 'barcode_map']
    def rows    = csv_rows(sheet.text)
    def places  = columns.collect { column -> rows[0].indexOf(column) }.findAll { place -> place >= 0 }
    def values  = rows.drop(1).collectMany { row -> places.collect { place -> row[place] } }
        .findAll { value -> value && !(value =~ /\p{Cntrl}/) }.unique()
    return values.findAll { value -> !file(resolved(sheet.parent, value), glob: false).exists() }
}

// The cells of a CSV text, trimmed, as RFC 4180 has them; what is wrong with it CHECK_SAMPLESHEET says
def csv_rows(text) {
    def found = text.replace('\uFEFF', '') =~ /("(?:[^"]++|"")*+"|[^",\r\n]*+)(,|\r?\n|\z)/
    return found.collect { _whole, cell, end -> [cell, end] }.inject([[]]) { rows, pair ->
        def quoted = pair[0].size() > 1 && pair[0].startsWith('"')
        rows.last() << (quoted ? pair[0][1..-2].replace('""', '"') : pair[0]).trim()
        pair[1] == ',' ? rows : rows << []
    }
}

def resolved(base, path) {
    return path ==~ '^([a-z0-9]+:/)?/.*' ? path : "${base.toUriString()}/${path}"
}

// channel of [ meta, ..., file ] -> one list of the files in samplesheet order, whatever the order of completion
def in_order(channel_of_tuples) {
    return channel_of_tuples
        .toSortedList { one, other -> one[0].index <=> other[0].index }
        .map { tuples -> tuples.collect { tuple -> tuple.last() } }
}

// channel of files -> one list in an order that does not depend on completion
def by_path(channel_of_files) {
    return channel_of_files.flatten().toSortedList { one, other -> one.toString() <=> other.toString() }
}
